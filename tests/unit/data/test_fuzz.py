"""No bytes make a reader raise, hang, or take more than 2 GiB: files of every format, damaged by Hypothesis."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from tests.repository import REPOSITORY
from tests.unit.data.seeds import SEEDS

from foundray.contract import endings
from foundray.spec.formats import FORMATS

EXAMPLES = 60
SECONDS = 300
"""Seconds for all files: many times what they need, so that only a hang takes longer."""


def test_every_format_and_modality_has_a_file_that_is_damaged() -> None:
    formats = {FORMATS[seed.source["format"]].module for seed in SEEDS if seed.modality is None}
    assert formats == {row.module for row in FORMATS.values()}
    assert {seed.modality[0] for seed in SEEDS if seed.modality} == set(endings())


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of each file, until the process ended."""
    folder, names = tmp_path_factory.mktemp("damaged"), [seed.name for seed in SEEDS]
    command = [sys.executable, "-m", "tests.unit.data.fuzzing", str(folder), str(EXAMPLES), *names]
    with (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=out, stderr=err)
        try:
            ended = f"status {process.wait(SECONDS)}"
        except subprocess.TimeoutExpired:
            ended = f"no end after {SECONDS} s"
            process.kill()
            process.wait()
    lines = [json.loads(line) for line in (folder / "out").read_text().splitlines()]
    why = f"{ended}, reading {folder}\n{(folder / 'err').read_text()[-3000:]}"
    return dict.fromkeys(names, why) | dict(lines)


@pytest.mark.parametrize("name", [seed.name for seed in SEEDS])
def test_damaged_files_are_read_or_accounted_for(name: str, found: dict[str, Any]) -> None:
    counts = found[name]
    assert isinstance(counts, dict), counts
    assert counts["read"] >= EXAMPLES // 2
    assert counts["bad"], "the damage was never found"
    assert counts["peak_bytes"] < 2 * 2**30
