"""Put what a search finds into the prompt of an exported model, and measure whether it helps (Lewis et al. 2020).

    python examples/after/retrieve.py base vectors

`vectors` is what `foundray embed` made of a collection of texts, one vector a paragraph. Held-out paragraphs are cut in two:
the first half is searched for, and the second half is judged by its loss after different contexts.
"""
# ruff: noqa: E402 (what is said before imports is for the libraries)

from __future__ import annotations

import argparse
import logging
import os
import random
import re
import sysconfig
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # all that is read lies on this machine
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # which kernels it has not: none of them is needed

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from foundray import InputError
from foundray.vectors.search import Searcher

DATA = Path(sysconfig.get_paths()["stdlib"]) / "asyncio"
CANDIDATES = 5
"""Passages asked for: those of them that fit are taken."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder that `foundray export` wrote of a model that continues texts")
    parser.add_argument("vectors", help="a folder that `foundray embed` made of a collection of texts")
    parser.add_argument("--query", help="a text to continue, instead of measuring")
    parser.add_argument(
        "--data", type=Path, default=DATA, metavar="FOLDER", help="of held-out text (default: Python's asyncio)"
    )
    parser.add_argument("--files", default="[s-z]*.py", metavar="PATTERN", help="which of its files (default: [s-z]*.py)")
    parser.add_argument("--passages", type=int, default=300, help="held-out paragraphs, at most")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    transformers.logging.disable_progress_bar()
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(options.data.glob(options.files))]
    try:
        tokenizer, model = AutoTokenizer.from_pretrained(options.model), AutoModelForCausalLM.from_pretrained(options.model)
        searcher = Searcher(options.vectors)
    except InputError as error:
        parser.exit(2, f"{error}\n")
    except (OSError, ValueError):
        parser.exit(2, f"{options.model} holds no model that continues texts: give a folder that `foundray export` wrote\n")
    transformers.set_seed(options.seed)
    context = model.config.max_position_embeddings

    halves = [(options.query, "")] if options.query else list(cut(texts))
    if len(halves) < 2 and not options.query:
        parser.exit(2, f"{options.data} holds {len(halves)} paragraphs in files like {options.files}: two are needed\n")
    random.shuffle(halves)
    halves = halves[: options.passages]
    found = [[hit.text or "" for hit in searcher.search(opening, top=CANDIDATES)] for opening, _ in halves]
    room = context // 2  # for the prompt; the rest is for what comes after it
    opening, truth = halves[0]
    shown = prompt(tokenizer, found[0], opening, room)
    asked = tokenizer(shown, return_tensors="pt").to(model.device)
    ids = model.generate(**asked, max_new_tokens=context - room)
    written = tokenizer.decode(ids[0], skip_special_tokens=True)[len(shown) :]
    print(f"--- the prompt\n{shown}\n--- what the model writes\n{written}")
    if options.query:
        return
    print(f"--- the truth\n{truth}\n---")
    contexts: dict[str, list[list[str]]] = {
        "nothing": [[] for _ in halves],
        "what was found for another one": found[1:] + found[:1],
        "what was found": found,
        "the passage itself": [[first + second] for first, second in halves],
    }
    print(f"loss of the second halves of {len(halves)} held-out paragraphs, nats per token, after their first halves and")
    for name, passages in contexts.items():
        total, count = 0.0, 0
        for some, (opening, rest) in zip(passages, halves, strict=True):
            nats, tokens = loss(model, tokenizer, prompt(tokenizer, some, opening, room), rest, context - room)
            total, count = total + nats, count + tokens
        print(f"{name:40} {total / count:8.4f}")


def cut(texts: list[str]) -> list[tuple[str, str]]:
    """Paragraphs of two lines or more, each in two halves; the second begins with the end of the line."""
    paragraphs = [paragraph.rstrip() for text in texts for paragraph in re.split(r"\n\s*\n", text)]
    lines = [paragraph.splitlines() for paragraph in paragraphs if "\n" in paragraph]
    return [("\n".join(some[: len(some) // 2]), "\n" + "\n".join(some[len(some) // 2 :])) for some in lines]


def prompt(tokenizer: Any, passages: list[str], opening: str, room: int) -> str:
    """The opening after those passages that fit into `room` tokens with it; the best comes first, and stands next to it."""
    text = opening
    for passage in passages:
        longer = f"{passage.rstrip()}\n\n{text}"
        if len(tokenizer(longer).input_ids) <= room:
            text = longer
    return text


@torch.no_grad()
def loss(model: Any, tokenizer: Any, before: str, text: str, most: int) -> tuple[float, int]:
    """(nats of a text's tokens after another text, number of these tokens), up to a limit."""
    opening = tokenizer(before).input_ids
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids[:most]
    logits = model(torch.tensor([opening + ids], device=model.device)).logits[0, len(opening) - 1 : -1]
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids, device=model.device), reduction="sum")), len(ids)


if __name__ == "__main__":
    main()
