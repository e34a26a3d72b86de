"""A run that diverges ends with a sentence, the record of every step before, and their checkpoints."""

from __future__ import annotations

from pathlib import Path

from tests.command import foundray_here

from foundray.runs.checkpoints import completed_steps
from foundray.runs.run import Run


def test_a_run_that_diverges_keeps_what_was_done(own_ray: None, spec: Path, tmp_path: Path) -> None:
    changes = ("optimizer.lr=1e34", "optimizer.kind=adamw", "schedule.warmup=0", "train.checkpoint_every=1", "scale.workers=2")
    done = foundray_here("train", spec, *(word for change in changes for word in ("--set", change)))
    assert done.status == 1, done.err + done.out
    assert "Traceback" not in done.err
    assert "has a loss and a gradient" in done.err
    assert "try a lower optimizer.lr" in done.err
    run = Run.open(str(tmp_path / "runs" / "small"))
    events = run.records("events.jsonl")
    failed = next(event for event in events if event["event"] == "failed")
    steps = [record["step"] for record in run.records("metrics.jsonl")]
    assert steps, "the steps before it are on record"
    assert steps == list(range(1, failed["step"] + 1))
    assert completed_steps(run.checkpoints)[0] == failed["step"]
    assert run.facts().state == "failed"
