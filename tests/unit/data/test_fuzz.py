"""No bytes make a reader raise, hang, or take more than 2 GiB: files of every format, damaged by Hypothesis."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.repository import REPOSITORY
from tests.unit.data.seeds import SEEDS

from foundray.contract import endings
from foundray.spec.formats import FORMATS

EXAMPLES = 60
SECONDS = 120
"""Seconds for one format's files: many times what they need, so that only a hang takes longer."""


def test_every_format_and_modality_has_a_file_that_is_damaged() -> None:
    formats = {FORMATS[seed.source["format"]].module for seed in SEEDS if seed.modality is None}
    assert formats == {row.module for row in FORMATS.values()}
    assert {seed.modality[0] for seed in SEEDS if seed.modality} == set(endings())


@pytest.mark.parametrize("name", [seed.name for seed in SEEDS])
def test_damaged_files_are_read_or_accounted_for(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.unit.data.fuzzing", name, str(tmp_path), str(EXAMPLES)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"reading {tmp_path / name}\n{done.stderr[-3000:]}"
    found = json.loads(done.stdout)
    assert found["read"] >= EXAMPLES // 2
    assert found["bad"], "the damage was never found"
    assert found["peak_bytes"] < 2 * 2**30
