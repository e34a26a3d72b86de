"""A run that ends with an error reports that error, whatever else fails afterwards."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.unit.recording import recorder, started, step
from tests.unit.scripted import Scripted, part

from foundray.errors import RunFailed, StorageAway
from foundray.records.writer import Writer
from foundray.training.elastic import ending
from foundray.training.elastic.coordinator import Coordinator
from foundray.training.elastic.ending import keep_what_is_done
from foundray.training.protocol.messages import Phase


def test_a_record_that_cannot_be_stored_does_not_hide_why_the_run_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the log is stored, so no manifest is written."""
    monkeypatch.setattr(ending, "LAST_SECONDS", 0.5)
    said: list[str] = []
    (tmp_path / "run").mkdir()
    subject = recorder(tmp_path / "run", said)
    subject.spec = subject.spec.model_copy(update={"fault": subject.spec.fault.model_copy(update={"storage_wait_s": 1.0})})

    def refuse(self: Writer, records: list[dict[str, Any]]) -> None:
        raise StorageAway("the disk is full")

    monkeypatch.setattr(Writer, "append", refuse)
    subject.write([started(0), step(1)])
    run = Scripted()
    run.form("a")
    run.say(1, written=(part(1),))
    run.say(1, Phase.FAILED, reason="no micro-batch has a finite loss")
    coordinator = cast(
        Coordinator,
        SimpleNamespace(
            protocol=run.protocol, recorder=subject, read_board=lambda: None, last_events=list, take=lambda _: None
        ),
    )
    with pytest.raises(RunFailed, match="no micro-batch"):
        try:
            raise RunFailed("no micro-batch has a finite loss")
        finally:
            keep_what_is_done(coordinator)
            subject.close(failed=True)
    assert said[-1].startswith("the run's record could not be written: the disk is full; make room")
    with pytest.raises(RunFailed, match="could not be written"):
        subject.close()
