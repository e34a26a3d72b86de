"""TensorBoard's files never delay or end a run: values that storage refuses wait, and the user is notified."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.object_store import ObjectStore, uploads
from tests.unit.recording import recorder, started, step

from foundray.runs.run import Run
from foundray.storage import Store
from foundray.training.telemetry.curves import Curves
from foundray.training.telemetry.event_file import EventFile, file_name, framed
from foundray.training.telemetry.likelihood import BytesPerToken
from foundray.training.telemetry.recorder import Recorder


def losses(folder: Path) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return [scalar.step for scalar in found.Scalars("train/loss")]


@contextmanager
def no_more_than(size: int) -> Iterator[None]:
    """Limit this process's files to `size` bytes, which acts like a full disk, with a write that partly succeeds."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_blocks_nobody_and_refused_values_are_written_later(tmp_path: Path) -> None:
    subject = Curves(Run(Store.at(tmp_path)), [])
    with no_more_than(4096):
        for number in range(1, 301):
            subject.add_step(step(number))
            subject.store()
            subject.retry_at = 0.0
    (said,) = subject.messages
    assert said.startswith("TensorBoard's curves wait") and "cannot be written" in said, "once"
    assert 0 < len(losses(tmp_path / "tensorboard")) < 300, "its records are complete"
    subject.add_step(step(301))
    subject.close()
    assert losses(tmp_path / "tensorboard") == list(range(1, 302))
    assert len(subject.messages) == 1


def test_a_file_that_cannot_be_repaired_is_followed_by_another(tmp_path: Path) -> None:
    subject = Curves(Run(Store.at(tmp_path)), [])
    subject.add_step(step(1))
    subject.store()
    assert subject.file
    subject.file.stream.close()
    subject.file.stream = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115 - it can neither be written nor be cut
    subject.add_step(step(2))
    subject.store()
    assert "the disk is full" in subject.messages.popleft()
    subject.close()
    assert losses(tmp_path / "tensorboard") == [1, 2]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_a_full_disk_at_the_end_of_a_run_is_reported(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").write_text("no folder can be made here")
    said: list[str] = []
    subject = recorder(tmp_path / "run", said)
    subject.write([started(0), step(1)])
    subject.settle()
    assert subject.stored_step == 1, "the log is stored all the same"
    subject.close()
    assert said[-1].startswith("TensorBoard lacks the last of the run's curves: ")


def remote(place: Store, said: list[str]) -> Recorder:
    from foundray.testing.specs import make_spec

    return Recorder(Run(place / "run"), make_spec(), BytesPerToken(1.0), said.append, False)


def test_a_refused_upload_does_not_fail_a_finished_run(server: ObjectStore, place: Store) -> None:
    said: list[str] = []
    subject = remote(place, said)
    subject.write([started(0), step(1)])
    server.refuses = lambda method, path: "/tensorboard/" in path and uploads(method, path)
    subject.close()
    assert server.refused
    (problem,) = [line for line in said if "TensorBoard" in line]
    assert problem.startswith("TensorBoard lacks the last of the run's curves: ")
    server.refuses = lambda method, path: False
    assert [record["step"] for record in Run(place / "run").records("metrics.jsonl")] == [1]


def test_a_full_temporary_folder_does_not_stop_the_record(
    place: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    said: list[str] = []
    subject = remote(place, said)
    for number in range(1, 3):
        subject.write([started(0)] * (number == 1) + [step(number)])
        subject.settle()
        assert subject.stored_step == number
    subject.close()
    assert any("a temporary file cannot be written" in line for line in said)


def test_tensorboard_reads_what_is_uploaded(place: Store, tmp_path: Path) -> None:
    subject = remote(place, [])
    subject.write([started(0), *map(step, range(1, 6))])
    subject.close()
    for file in (place / "run" / "tensorboard").children():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert losses(tmp_path) == [1, 2, 3, 4, 5]


def test_files_are_read_in_the_order_of_commands_whatever_the_clock_says(tmp_path: Path) -> None:
    far = f"events.out.tfevents.{int(time.time()) + 1000:010d}.a"
    names = ["a-note.txt", far]
    for _ in range(3):
        names.append(file_name(names))
    assert sorted(names) == names and len(set(names)) == 5


def test_a_file_that_cannot_be_created_leaves_nothing(tmp_path: Path) -> None:
    from tensorboard.compat.proto.event_pb2 import Event

    many: Any = framed(Event(file_version="x" * 10_000))
    with no_more_than(100), pytest.raises(OSError):
        EventFile(tmp_path / "events", many)
    assert not list(tmp_path.iterdir())
