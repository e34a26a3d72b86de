"""Time until a command's first output: help at once, and a refusal soon."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.command import FOUNDRAY

pytestmark = pytest.mark.alone

HELP_SECONDS = 0.3
TURNS = 5
"""The best of this many attempts counts: the machine may be busy with something else."""
REFUSED = (
    "train",
    "prepare",
    "tune",
    "forecast",
    "resume",
    "status",
    "audit",
    "samples",
    "sample",
    "probe",
    "evaluate",
    "fetch",
)
"""Verbs that refuse a missing argument without starting anything, and their other arguments."""
BESIDES = {"samples": ["--step", "0"], "probe": ["--task", "none.yaml"], "evaluate": ["--task", "none.jsonl"]}


def seconds(folder: Path, *arguments: str, status: int = 0) -> float:
    began = time.perf_counter()
    done = subprocess.run([FOUNDRAY, *arguments], cwd=folder, capture_output=True, text=True)
    took = time.perf_counter() - began
    assert done.returncode == status, (arguments, done.stderr)
    return took


def verbs() -> list[str]:
    shown = subprocess.run([FOUNDRAY, "--help"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^    ([a-z-]+)\b", shown, re.MULTILINE)


def test_help_answers_at_once(tmp_path: Path) -> None:
    assert min(seconds(tmp_path, "--help") for _ in range(TURNS)) <= HELP_SECONDS


def test_every_verb_answers(tmp_path: Path, show: Callable[[str, list[str]], None]) -> None:
    known = verbs()
    assert set(REFUSED) < set(known)
    rows = [f"{'':12} {'--help':>8} {'refusal':>8}"]
    for verb in ("", *known):
        refusal = f"{seconds(tmp_path, verb, 'none.yaml', *BESIDES.get(verb, []), status=2):8.2f}" if verb in REFUSED else ""
        rows.append(f"{verb or 'foundray':12} {seconds(tmp_path, *filter(None, [verb]), '--help'):8.2f} {refusal}".rstrip())
    show("seconds until a command answers", rows)
