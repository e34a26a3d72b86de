"""Cuts that another command records in the same log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foundray.records.segments import Segment
from foundray.records.writer import Writer
from foundray.runs.lineage import Cut
from foundray.storage import Store
from foundray.testing.waiting import wait_until
from foundray.training.elastic.cuts import CutReader
from foundray.training.protocol.messages import CutsRead
from foundray.training.rollback import RollBack


def record(folder: Path, kind: str, **fields: Any) -> None:
    Writer(Store.at(str(folder)), "events").append([{"time": 1.0, "event": kind, **fields}])


def answer(reader: CutReader) -> CutsRead:
    (event,) = wait_until(reader.poll, 10, lambda: "the log is read")
    assert isinstance(event, CutsRead)
    return event


def test_each_question_is_answered_with_all_that_is_recorded_by_then(tmp_path: Path) -> None:
    reader = CutReader(Store.at(str(tmp_path)))
    assert reader.poll() == [] and not reader.is_reading, "nobody has asked"
    record(tmp_path, "rolled_back", spike=7, to=4, passed_over=3, cut="aaaa", step=7)
    reader.ask(1)
    assert answer(reader) == CutsRead(1, (Cut("aaaa", 4),), (RollBack(7, 4, 3),))
    assert reader.poll() == [], "once"
    record(tmp_path, "left_out", node="n", reason="r", trusted=2, to=2, cut="bbbb", step=9)
    reader.ask(2)
    assert answer(reader) == CutsRead(2, (Cut("aaaa", 4), Cut("bbbb", 2)), ()), "a loss of trust voids the roll-back"
    reader.close()


def test_what_arrives_late_stands_where_the_log_has_it(tmp_path: Path) -> None:
    """As in an object store, whose segments are numbered when their writer begins."""
    reader, segments = CutReader(Store.at(str(tmp_path))), tmp_path / "events"
    segments.mkdir()
    late, own = (Writer(Store.at(str(tmp_path)), "events") for _ in range(2))
    late.sizes, own.sizes = {Segment(0, 0, "a"): 1}, {Segment(0, 0, "a"): 1}
    late.number, own.number = 1, 2
    own.append([{"time": 2.0, "event": "rolled_back", "spike": 9, "to": 8, "passed_over": 1, "cut": "bbbb", "step": 9}])
    reader.ask(1)
    assert answer(reader).lineage == (Cut("bbbb", 8),)
    late.append(
        [{"time": 3.0, "event": "left_out", "node": "n", "reason": "r", "trusted": 4, "to": 4, "cut": "aaaa", "step": 9}]
    )
    reader.ask(2)
    assert answer(reader).lineage == (Cut("aaaa", 4), Cut("bbbb", 8))
    reader.close()


def test_storage_that_does_not_answer_is_asked_again(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").mkdir()  # cannot be read
    reader = CutReader(Store.at(str(tmp_path)))
    reader.ask(1)
    wait_until(lambda: reader.poll() == [] and not reader.is_reading, 10, lambda: "the first attempt is over")
    (tmp_path / "events.jsonl").rmdir()
    record(tmp_path, "rolled_back", spike=7, to=4, passed_over=3, cut="aaaa", step=7)
    assert answer(reader).lineage == (Cut("aaaa", 4),)
    reader.close()
