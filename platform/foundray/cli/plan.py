"""`plan`: whether to pre-train on some data, and what a run will take."""

from __future__ import annotations

import json
import re
from typing import Any

import foundray
from foundray.cli.parsing import Verbs, overrides_of, say
from foundray.errors import InputError

SIZES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def add_to(verbs: Verbs) -> None:
    about = "before a run: should you pre-train, on this data, and what will it take"
    added = verbs.add("plan", _plan, about, "SPEC", overrides="spec", shows=True)
    many: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    help_text = "tokenizer.json of models that you might start from: how well they cover this data is measured"
    added.add_argument("--tokenizer", metavar="FILE", help=help_text, **many)
    help_text = "where the run might go, such as H100:8 (default: one of some kinds)"
    added.add_argument("--gpus", metavar="NAME:COUNT", help=help_text, **many)
    added.add_argument("--price", metavar="NAME=PRICE", help="per GPU and hour, such as H100=2.5", **many)
    added.add_argument("--peak-flops", type=float, metavar="X", help="FLOP/s of a CPU, for --gpus CPU")
    added.add_argument("--mfu", type=float, metavar="X", help="share of the peak FLOP/s reached (default: 0.4, assumed)")
    help_text = "hours between failures of one machine (default: 6300, as Llama 3's training saw)"
    added.add_argument("--mtbf", type=float, metavar="HOURS", help=help_text)
    added.add_argument("--machines", type=int, metavar="N", help="machines that hold the GPUs (default: eight GPUs in each)")
    added.add_argument("--seconds-per-gb", type=float, metavar="X", help="time to write a checkpoint (default: 1, assumed)")
    added.add_argument("--sample", metavar="SIZE", help="read a seeded sample of the files, such as 1GB, and extrapolate")
    help_text = "a reason to pre-train that data cannot show: architecture, control or research"
    added.add_argument("--because", metavar="REASON", help=help_text, **many)


def _plan(options: Any) -> None:
    found = foundray.plan(
        options.target,
        overrides_of(options),
        tokenizers=options.tokenizer,
        gpus=options.gpus,
        prices=options.price,
        because=options.because,
        peak_flops=options.peak_flops,
        sample_bytes=None if options.sample is None else _bytes(options.sample),
        mfu=options.mfu,
        mtbf_hours=options.mtbf,
        machines=options.machines,
        seconds_a_gigabyte=options.seconds_per_gb,
        report=say,
    )
    print(f"\n{found.table()}")
    if options.json:
        print(json.dumps(found.to_dict()))


def _bytes(text: str) -> int:
    """Parse a size such as `500MB` into bytes. Raises InputError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)B?", text.strip().upper())
    if match is None or not float(match[1]):
        raise InputError(f"--sample {text}: it must be a size, such as 500MB or 1GB")
    return int(float(match[1]) * SIZES[match[2]])
