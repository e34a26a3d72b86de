"""The text of a proposed spec: YAML, with comments that say what was found and what else would be possible."""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from foundray.proposing.proposal import Proposal
from foundray.spec.loading import parse_spec
from foundray.wording.sentences import plain
from foundray.wording.words import count, duration, plural

FEW_SAMPLES = 4000
"""Samples below which a tenth is held out instead of a twentieth."""
EVALUATIONS = 4
LARGE_STEP = 2**14
"""Tokens per step from which on the second moment's mean over few steps is long enough (beta 0.95 instead of 0.99)."""
COLUMN, LONGEST = 48, 128
"""Where comments begin, if the line is shorter; and the longest line with one."""


def page(name: str, place: str, found: Proposal) -> str:
    """Write the spec, and check it as `train` will. Raises InputError."""
    text = "\n".join([*_head(place, found), "", *_body(name, found), ""])
    parse_spec(text, "the proposed spec")
    return text


def _head(place: str, found: Proposal) -> list[str]:
    sizes, machine = found.sizes, found.machine
    unit = "tokens" if found.choice.vocabulary else "units"
    lines = [f"Written by `foundray init {shlex.quote(place)}`. Every field is explained by `foundray schema --markdown`.", ""]
    lines += found.choice.found
    if found.left_out:
        lines.append(f"left out: {found.left_out}")
    lines += [
        "",
        f"A model of about {count(sizes.parameters)} parameters sees {count(sizes.tokens)} {unit}, {sizes.epochs:.1f} times",
        f"the data, in about {duration(sizes.seconds)} on this machine ({machine.words}) if nothing else runs;",
        "--minutes sizes it for another time.",
    ]
    return [f"# {plain(line)}".rstrip() for line in lines]  # a line break would make what follows part of the spec


def _body(name: str, found: Proposal) -> list[str]:
    choice, sizes, notes = found.choice, found.sizes, found.choice.notes
    samples = choice.samples or choice.units / sizes.context
    lines = [f"name: {name}", "seed: 1337", "data:"]
    if choice.modality:
        lines.append(_line("  modality", choice.modality, notes.get("modality", "")))
    if len(choice.sources) == 1:
        lines.append(_line("  sources", choice.sources, notes.get("sources", "")))
    else:
        lines.append(f"  sources:                  # {notes['sources']}" if notes.get("sources") else "  sources:")
        lines += [f"    - {_flow(source)}" for source in choice.sources]
    lines.append(_line("  holdout", 0.05 if samples > FEW_SAMPLES else 0.1, "the last part of each source is for validation"))
    if choice.tokenizer:
        lines.append(_line("  tokenizer", choice.tokenizer, notes.get("tokenizer", "")))
    every = max(1, sizes.steps // EVALUATIONS)
    shape = {"width": sizes.width, "depth": sizes.depth, "heads": sizes.heads, "context": sizes.context, **choice.model}
    small = sizes.micro_batches * sizes.micro_batch_size * sizes.context < LARGE_STEP
    optimizer = {"kind": "adamw8bit", "lr": sizes.lr, "betas": [0.9, 0.99 if small and choice.vocabulary else 0.95]}
    train = {
        "steps": sizes.steps, "micro_batches": sizes.micro_batches, "micro_batch_size": sizes.micro_batch_size,
        "evaluate_every": every, "checkpoint_every": every,
    }  # fmt: skip
    lines += [
        _line("objective", choice.objective, notes.get("objective", "")),
        _line("model", shape, notes.get("model", "")),
        _line("optimizer", optimizer, "the peak learning rate; adamw | lion8bit"),
        _line("schedule", {"kind": "wsd", "warmup": 0.05, "decay": 0.4}, "fractions of the run; cosine | constant"),
        _line("train", train, f"{plural(sizes.micro_batches * sizes.micro_batch_size, 'sample')} per step"),
    ]
    if found.machine.gpus:
        scale = {"workers": [1, found.machine.gpus], "resources": {"CPU": 1, "GPU": 1}}
        lines.append(_line("scale", scale, "never changes the result"))
    return [*lines, _line("storage", "runs", "a folder, or a URL of an object store")]


def _line(field: str, value: Any, comment: str) -> str:
    """A field with its comment: beside it, or above if the line would be long."""
    line = f"{field}: {_flow(value)}"
    if not comment:
        return line
    beside = f"{line:<{COLUMN}}  # {comment}"
    indent = " " * (len(field) - len(field.lstrip()))
    return beside if len(beside) <= LONGEST else f"{indent}# {comment}\n{line}"


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    written = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    return written.removesuffix("\n").removesuffix("\n...")
