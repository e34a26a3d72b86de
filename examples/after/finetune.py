"""Fine-tune an exported model on other text, with transformers' Trainer and a LoRA adapter of PEFT (Hu et al. 2021).

    python examples/after/finetune.py base adapter

Every fifth file is held out. The adapter is saved, loaded again from its folder, and measured on the held-out files.
"""
# ruff: noqa: E402 (what is said before imports is for the libraries)

from __future__ import annotations

import argparse
import logging
import os
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # all that is read lies on this machine
warnings.filterwarnings("ignore", category=FutureWarning)  # of the libraries, about each other
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # which kernels it has not: none of them is needed

import torch
import transformers

try:
    from peft import LoraConfig, PeftModel, get_peft_model
except ImportError:
    raise SystemExit("PEFT is not installed: `pip install '.[after]'` in the repository installs it") from None
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

DATA = Path(sysconfig.get_paths()["stdlib"]) / "asyncio"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder that `foundray export` wrote of a model that continues texts")
    parser.add_argument("out", help="the folder of the adapter")
    parser.add_argument("--data", type=Path, default=DATA, metavar="FOLDER", help="of text (default: Python's asyncio)")
    parser.add_argument("--files", default="*.py", metavar="PATTERN", help="which of its files (default: *.py)")
    parser.add_argument("--prompt", default="async def ", help="what is continued before and after")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rank", type=int, default=16, help="of the adapter's matrices")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    transformers.logging.disable_progress_bar()
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(options.data.glob(options.files))]
    if len(texts) < 2:
        parser.exit(2, f"{options.data} holds {len(texts)} files like {options.files}: two are needed, one to hold out\n")
    try:
        tokenizer, model = AutoTokenizer.from_pretrained(options.model), AutoModelForCausalLM.from_pretrained(options.model)
    except (OSError, ValueError):
        parser.exit(2, f"{options.model} holds no model that continues texts: give a folder that `foundray export` wrote\n")
    transformers.set_seed(options.seed)

    # The document token opens texts, ends them and pads. A collator that leaves out every label equal to the padding's id, as
    # DataCollatorForLanguageModeling does, would leave out the ends of texts; this one leaves out only what it added itself.
    # It is to be added on the right: on the left, the model would be asked for a text's first token after nothing but padding.
    tokenizer.padding_side = "right"
    collate = DataCollatorForSeq2Seq(tokenizer)
    length = model.config.max_position_embeddings
    held_out = list(pieces(tokenizer, texts[::5], length))
    training = list(pieces(tokenizer, [text for index, text in enumerate(texts) if index % 5], length))
    print(f"{len(texts)} files: {len(training)} pieces of up to {length} tokens to learn from, {len(held_out)} held out")

    before, text_before = loss(model, held_out, collate), continued(model, tokenizer, options.prompt, options.seed)
    lora = LoraConfig(task_type="CAUSAL_LM", r=options.rank, lora_alpha=2 * options.rank, target_modules="all-linear")
    adapted = get_peft_model(model, lora)
    adapted.print_trainable_parameters()
    arguments = TrainingArguments(
        output_dir=options.out, max_steps=options.steps, per_device_train_batch_size=8, learning_rate=options.lr,
        warmup_steps=options.steps // 20, logging_steps=max(1, options.steps // 10), save_strategy="no", report_to="none",
        disable_tqdm=True, dataloader_pin_memory=torch.cuda.is_available(), seed=options.seed,
    )  # fmt: skip
    Trainer(adapted, arguments, train_dataset=training, data_collator=collate).train()
    adapted.save_pretrained(options.out)

    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(options.model), options.out)
    after = loss(loaded, held_out, collate)
    print(
        f"--- the model\n{text_before}\n--- with the adapter\n{continued(loaded, tokenizer, options.prompt, options.seed)}\n---"
    )
    print(f"held-out loss, nats per token: {before:.4f} before, {after:.4f} with the adapter loaded from {options.out}")


def pieces(tokenizer: Any, texts: Iterable[str], length: int) -> Iterator[dict[str, list[int]]]:
    """Documents, opened by the document token (the tokenizer does it) and ended by it, in pieces of at most `length` tokens."""
    for text in texts:
        ids = [*tokenizer(text, split_special_tokens=True, verbose=False).input_ids, tokenizer.eos_token_id]
        for start in range(0, len(ids), length):
            piece = ids[start : start + length]
            yield {"input_ids": piece, "attention_mask": [1] * len(piece), "labels": piece}


@torch.no_grad()
def loss(model: Any, examples: list[dict[str, list[int]]], collate: Any) -> float:
    """Nats a token over all tokens: a sum and a count, since batches hold different numbers of them."""
    model.eval()
    total, count = 0.0, 0
    for batch in DataLoader(examples, batch_size=16, collate_fn=collate):  # type: ignore[arg-type]
        asked = int((batch["labels"][:, 1:] != -100).sum())
        total += model(**batch.to(model.device)).loss.item() * asked
        count += asked
    return total / count


def continued(model: Any, tokenizer: Any, prompt: str, seed: int) -> str:
    """The prompt, and what the model writes after it, until its context is full."""
    transformers.set_seed(seed)
    ids = model.generate(**tokenizer(prompt, return_tensors="pt").to(model.device))
    return str(tokenizer.decode(ids[0], skip_special_tokens=True))


if __name__ == "__main__":
    main()
