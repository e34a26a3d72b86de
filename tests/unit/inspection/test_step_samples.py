"""Samples of a step: only for steps that the run has done, and with the data that count."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundray.data.prepare.manifest import Manifest
from foundray.errors import InputError
from foundray.inspection.samples import samples_of
from foundray.runs.run import Run
from foundray.testing.records import event_at, step_records
from foundray.testing.runs import run_with_records

STARTED = [
    event_at(0, "command", workers=[1, 1], environment={}),
    event_at(1, "workers_started", step=0, workers=1, device="cpu"),
]
BACK = event_at(60, "rolled_back", step=50, spike=50, to=40, passed_over=10)


def asked(run: Run, step: int) -> tuple[list[str], list[str]]:
    """(samples, reported lines)."""
    said: list[str] = []
    return samples_of(run, Manifest.model_validate(run.manifest()), step, said.append), said


def refusal(run: Run, step: int) -> str:
    with pytest.raises(InputError) as refused:
        asked(run, step)
    return str(refused.value)


def test_only_what_the_run_has_done(tmp_path: Path) -> None:
    run = run_with_records(tmp_path, STARTED, step_records(1, 30, 1), train__steps=40)
    assert len(asked(run, 1)[0]) == len(asked(run, 30)[0]) == run.spec().samples_per_step
    assert asked(run, 1)[0] != asked(run, 2)[0]
    assert refusal(run, 0) == "--step 0: steps are counted from 1"
    assert refusal(run, 31) == "--step 31: the run is at step 30 and has not done that one yet"
    assert refusal(run, 41) == "--step 41: the run ends after step 40"
    assert "at step 0 and has not done" in refusal(run_with_records(tmp_path, STARTED, name="begun"), 1)


def test_a_step_that_was_rolled_back_has_the_data_that_count(tmp_path: Path) -> None:
    plain = run_with_records(tmp_path, STARTED, step_records(1, 60, 1), name="plain", train__steps=70)
    undone = run_with_records(tmp_path, [*STARTED, BACK], step_records(1, 49, 1), name="undone", train__steps=70)
    assert undone.facts().step == 40, "where the run went back to"
    assert refusal(undone, 45).endswith("has not done that one yet: it was rolled back from step 50 to step 40")
    assert asked(undone, 40) == asked(plain, 40)
    again = run_with_records(
        tmp_path, [*STARTED, BACK], [*step_records(1, 49, 1), *step_records(41, 45, 61)], name="again", train__steps=70
    )
    samples, (said,) = asked(again, 45)
    assert samples == asked(plain, 55)[0]
    assert (
        "done again after the run rolled back from step 50; the time that counts used the data that step 55 would have had"
        in said
    )
