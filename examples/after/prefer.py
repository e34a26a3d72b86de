"""Teach an exported model to prefer what people wrote over what it writes itself, with TRL's DPO (Rafailov et al. 2023).

    python examples/after/prefer.py base preferring

A pair is a prompt, the lines that follow it in a file (chosen), and a sample of the model's own (rejected), as in self-play
fine-tuning (Chen et al. 2024): no judge and no labels are needed. Every fifth file is held out.
"""
# ruff: noqa: E402 (what is said before imports is for the libraries)

from __future__ import annotations

import argparse
import logging
import os
import random
import sysconfig
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # all that is read lies on this machine
warnings.filterwarnings("ignore", category=FutureWarning)  # of the libraries, about each other
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # which kernels it has not: none of them is needed

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

try:
    import datasets
    from trl import DPOConfig, DPOTrainer
except ImportError:
    raise SystemExit("TRL is not installed: `pip install '.[after]'` in the repository installs it") from None

DATA = Path(sysconfig.get_paths()["stdlib"]) / "asyncio"
LINES = 4  # of a prompt
LEARNED = 0.6  # fraction of the context: the tokens of a prompt and its continuation to learn from


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder that `foundray export` wrote of a model that continues texts")
    parser.add_argument("out", help="the folder of the new model")
    parser.add_argument("--data", type=Path, default=DATA, metavar="FOLDER", help="of text (default: Python's asyncio)")
    parser.add_argument("--files", default="*.py", metavar="PATTERN", help="which of its files (default: *.py)")
    parser.add_argument("--pairs", type=int, default=512, help="to learn from; a quarter as many are held out")
    parser.add_argument("--steps", type=int, default=100, help="of 8 pairs")
    parser.add_argument("--beta", type=float, default=0.1, help="how much it costs to move away from the model as it was")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(options.data.glob(options.files))]
    if len(texts) < 2:
        parser.exit(2, f"{options.data} holds {len(texts)} files like {options.files}: two are needed, one to hold out\n")
    try:
        tokenizer, model = AutoTokenizer.from_pretrained(options.model), AutoModelForCausalLM.from_pretrained(options.model)
    except (OSError, ValueError):
        parser.exit(2, f"{options.model} holds no model that continues texts: give a folder that `foundray export` wrote\n")
    transformers.set_seed(options.seed)

    length = model.config.max_position_embeddings
    learn, held_out = [text for index, text in enumerate(texts) if index % 5], texts[::5]
    training = pairs(model, tokenizer, learn, options.pairs, length)
    testing = pairs(model, tokenizer, held_out, options.pairs // 4, length)
    if not training or not testing:
        parser.exit(2, f"{options.data} has no {LINES} lines in a row of {length // 4} to {length // 2} tokens to hold out\n")
    print("\n".join(f"--- {side}\n{testing[0][side]}" for side in ("prompt", "chosen", "rejected")))
    training, testing = datasets.Dataset.from_list(training), datasets.Dataset.from_list(testing)
    arguments = DPOConfig(
        output_dir=options.out, beta=options.beta, max_length=int(LEARNED * length), max_steps=options.steps,
        per_device_train_batch_size=8, learning_rate=options.lr, seed=options.seed, bf16=False, gradient_checkpointing=False,
        logging_strategy="no", save_strategy="no", report_to="none", dataloader_pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    trainer = DPOTrainer(model, args=arguments, train_dataset=training, eval_dataset=testing, processing_class=tokenizer)
    before = judged(model, trainer.get_eval_dataloader())
    trainer.train()
    after = judged(model, trainer.get_eval_dataloader())
    trainer.save_model(options.out)

    # A reward is beta times how far a text's log-probability has moved, so all are zero before.
    margin = options.beta * ((after[0] - after[1]) - (before[0] - before[1]))
    print(f"--- {len(margin)} held-out pairs, before and after {options.steps} steps, in {options.out}")
    for what, now, then in (
        ("chosen more probable than rejected", (before[0] > before[1]).float(), (after[0] > after[1]).float()),
        ("log-probability of chosen", before[0], after[0]),
        ("log-probability of rejected", before[1], after[1]),
        ("reward margin", 0 * margin, margin),
        ("reward higher for chosen", 0 * margin, (margin > 0).float()),
    ):
        print(f"{what:40} {now.mean():9.3f} {then.mean():9.3f}")


def pairs(model: Any, tokenizer: Any, texts: list[str], count: int, length: int) -> list[dict[str, str]]:
    """Prompts of a few lines, what follows them in a file, and what the model writes after them.

    TRL appends the token that ends a text, and these passages do not end there: so they are longer than what is learned from,
    and it cuts that off, but at the end of a file. Samples that the model ends earlier are left out.
    """
    places, rows = [], list[dict[str, str]]()
    for lines in (text.splitlines(keepends=True) for text in texts):
        for first in range(len(lines)):
            # Without white space at its end: what follows begins with some, so that no token reaches over the border.
            prompt = "".join(lines[first : first + LINES]).rstrip()
            if length // 4 <= len(tokenizer(prompt).input_ids) <= length // 2:
                places.append((prompt, "".join(lines[first : first + length])[len(prompt) :]))
    random.shuffle(places)
    while places and len(rows) < count:
        some, places = places[:64], places[64:]
        batch = tokenizer([prompt for prompt, _ in some], return_tensors="pt", padding=True, padding_side="left")
        ids = model.generate(**batch.to(model.device), max_new_tokens=length // 2)
        for (prompt, rest), text in zip(some, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
            opening, whole = tokenizer(prompt).input_ids, tokenizer(text).input_ids
            if whole[: len(opening)] == opening and len(whole) > LEARNED * length:
                chosen = tokenizer(rest, add_special_tokens=False, verbose=False).input_ids[: length // 2]
                rows.append({"prompt": prompt, "chosen": tokenizer.decode(chosen), "rejected": text[len(prompt) :]})
    return rows[:count]


@torch.no_grad()
def judged(model: Any, batches: Iterable[dict[str, torch.Tensor]]) -> torch.Tensor:
    """Log-probabilities [2, pairs] of chosen and rejected texts after their prompts."""
    model.eval()
    found = []
    for batch in batches:
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        each = logits.log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0] * batch["completion_mask"][:, 1:]
        found.append(each.sum(1).view(2, -1))  # a batch is all chosen, then all rejected
    return torch.cat(found, 1)


if __name__ == "__main__":
    main()
