"""A run's logs: appended to locally, immutable segments on object stores (a real S3 server), and reported damage."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.object_store import ObjectStore, deletes, uploads

import foundray
from foundray.cli import main
from foundray.errors import InputError
from foundray.records import frames
from foundray.records import writer as writing
from foundray.records.lines import encoded, parsed
from foundray.records.reader import Reader
from foundray.records.schema import EVENTS
from foundray.records.segments import Segment, current
from foundray.records.writer import Writer
from foundray.runs.following import Follower
from foundray.runs.logs import raw
from foundray.runs.run import Run
from foundray.runs.status import standing
from foundray.storage import Store
from foundray.testing.records import BEGAN, event_at, example_of, step_records
from foundray.testing.runs import run_with_records


def read(folder: Store) -> list[int]:
    return [record["step"] for record in Reader(folder, "metrics").new()]


@pytest.fixture(params=["local", "remote"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store.at(tmp_path) if request.param == "local" else request.getfixturevalue("place")


def test_what_is_written_is_read_and_only_what_is_new_again(folder: Store) -> None:
    follower, first, second = Follower(folder), Writer(folder, "metrics"), Writer(folder, "events")
    assert (follower.new(), follower.restarted) == ([], True)
    first.append(step_records(1, 3, 0))
    second.append([event_at(0, "command", workers=[1, 1])])
    assert [record.get("step", 0) for record in follower.new()] == [0, 1, 2, 3]
    assert (follower.new(), follower.restarted) == ([], False)
    Writer(folder, "metrics").append(step_records(4, 5, 9))  # the next command's
    assert [record["step"] for record in follower.new()] == [4, 5]
    assert read(folder) == [1, 2, 3, 4, 5]


def test_storage_that_refuses_loses_nothing_and_is_asked_again(server: ObjectStore, place: Store) -> None:
    log = Writer(place, "metrics")
    log.append(step_records(1, 2, 0))
    for refuses in (uploads, lambda method, path: uploads(method, path) or deletes(method, path)):
        server.refuses = refuses
        with pytest.raises(InputError, match="cannot be written"):
            log.append(step_records(3, 3, 3))
        assert read(place) == [1, 2]
        server.refuses = lambda method, path: False
    log.append(step_records(3, 4, 3))  # what waits has grown meanwhile
    assert read(place) == [1, 2, 3, 4]
    assert not [path for method, path in server.refused if method == "DELETE"], "nothing is deleted on failure"


def test_an_upload_that_came_through_though_it_was_called_a_failure_is_no_second_one(place: Store) -> None:
    log, follower = Writer(place, "metrics"), Follower(place)
    log.append(step_records(1, 1, 0))
    assert len(follower.new()) == 1
    log.number = 0  # as if it had failed
    log.append(step_records(1, 2, 0))
    assert read(place) == [1, 2]
    assert [record["step"] for record in follower.new()] == [2]


def test_a_second_writer_damages_nothing(place: Store) -> None:
    """A writer that has lost its lock, and has not noticed yet."""
    late, holder = Writer(place, "metrics"), Writer(place, "metrics")
    late.append(step_records(1, 1, 0))
    holder.append(step_records(2, 2, 1))
    late.append(step_records(2, 2, 1.5))
    holder.append(step_records(3, 3, 2))
    assert sorted(read(place)) == [1, 2, 2, 3]


@pytest.mark.parametrize("refused", ["nothing", "deletes", "uploads"])
def test_segments_are_merged_while_a_reader_follows(
    refused: str,
    server: ObjectStore,
    place: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writing, "BLOCKS", (3, 6))
    log, follower, followed = Writer(place, "metrics"), Follower(place), list[int]()
    for number in range(1, 20):
        if refused == "deletes":
            server.refuses = deletes
        elif refused == "uploads":  # those of merged segments alone
            server.refuses = lambda method, path: uploads(method, path) and not _single(path)
        if number == 14:
            log = Writer(place, "metrics")  # another command
        log.append(step_records(number, number, number))
        if number % 4 == 0 or number == 19:
            followed += [record["step"] for record in follower.new()]
    assert read(place) == followed == list(range(1, 20))
    server.refuses = lambda method, path: False
    for number in range(20, 26):
        log.append(step_records(number, number, number))
    assert read(place) == list(range(1, 26))
    names = [name for name in server.names(place.path) if name.startswith("metrics/")]
    assert len(names) <= 8, "in blocks, whatever failed before"
    assert [record["step"] for record in follower.new()] == list(range(20, 26))


def _single(path: str) -> bool:
    segment = Segment.named(path.partition("?")[0].rsplit("/", 1)[-1])
    return segment is None or segment.first == segment.last


def test_a_segment_that_is_merged_between_listing_and_reading_is_read_all_the_same(
    place: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = Writer(place, "metrics")
    for number in range(1, 4):
        log.append(step_records(number, number, number))
    subject = Reader(place, "metrics")
    records = subject.new()
    assert next(records)["step"] == 1
    monkeypatch.setattr(writing, "BLOCKS", (4,))
    log.append(step_records(4, 4, 4))
    assert [record["step"] for record in records] == [2, 3, 4]
    assert subject.damage == []


@pytest.mark.parametrize("read_before", [2, 7])
def test_storage_that_fails_once_within_a_merged_segment_costs_no_record(
    read_before: int,
    server: ObjectStore,
    place: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Records read from single segments count once, however little of the merged segment is read then."""
    monkeypatch.setattr(writing, "BLOCKS", (8,))
    log, subject, found = Writer(place, "metrics"), Reader(place, "metrics"), list[int]()
    for number in range(1, 10):
        if number == read_before + 1:
            found += [record["step"] for record in subject.new()]
        log.append(step_records(number, number, number))
    server.refuses = lambda method, path: method == "GET" and not _single(path)
    with pytest.raises(InputError, match="cannot be read"):
        found += [record["step"] for record in subject.new()]
    server.refuses = lambda method, path: False
    found += [record["step"] for record in subject.new()]
    assert found == list(range(1, 10))
    assert subject.damage == []


def test_a_truncated_segment_is_not_merged_with_the_next(place: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "BLOCKS", (4,))
    log, follower, followed = Writer(place, "metrics"), Follower(place), list[int]()
    for number in range(1, 13):
        log.append(step_records(number, number, number))
        if number == 2:
            second = (place / "metrics").children()[1]
            second.write_bytes(second.read_bytes()[:-20])
            followed += [record["step"] for record in follower.new()]
    followed += [record["step"] for record in follower.new()]
    assert read(place) == followed == [1, *range(3, 13)]
    assert len(follower.damage()) == 1
    assert len((place / "metrics").children()) == 4 + 2, "whole ones are merged"


def test_an_old_runs_file_is_followed_by_segments_and_a_copy_of_them_by_one_more(place: Store, tmp_path: Path) -> None:
    old = [{**record, "takers": [0, 1, 2, 0, 1]} for record in step_records(1, 2, 0)]
    (place / "metrics.jsonl").write_bytes(b"".join(json.dumps(record).encode() + b"\n" for record in old))
    Writer(place, "metrics").append(step_records(3, 3, 3))
    assert read(place) == [1, 2, 3]
    here = Store.at(tmp_path)  # the run is copied to a disk, and continues there
    (here / "metrics.jsonl").write_bytes((place / "metrics.jsonl").read_bytes())
    for child in (place / "metrics").children():
        (here / "metrics" / child.name).write_bytes(child.read_bytes())
    log = Writer(here, "metrics")
    log.append(step_records(4, 4, 4))
    log.append(step_records(5, 5, 5))
    records = list(Reader(here, "metrics").new())
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5]
    assert records[0]["takers"] == [(0, 1), (1, 1), (2, 1), (0, 1), (1, 1)]
    assert len((here / "metrics").children()) == 2


GOOD = encoded(step_records(2, 2, 0))
DAMAGED: dict[str, bytes] = {
    "torn": GOOD[: len(GOOD) // 2] + b"\n",
    "zeroed": b"\0" * 300 + b"\n",
    "not UTF-8": GOOD.replace(b"00000000", b"\xff\xfe\xff"),
    "a list": b"[1, 2]\n",
    "a number": b"7\n",
    "nested": b"[" * 100_000 + b"\n",
    "text for a number": GOOD.replace(b'"loss":4.0', b'"loss":"x"'),
    "null for a number": GOOD.replace(b'"step":2', b'"step":null'),
    "a word for takers": GOOD.replace(b"[[0,2],[1,2],[2,1]]", b'["a"]'),
    "a time that is none": GOOD.replace(b'"time":1800000001.0', b'"time":NaN'),
    "a time in a million years": GOOD.replace(b'"time":1800000001.0', b'"time":1.8e19'),
    "seconds without end": GOOD.replace(b'"step_s":1.0', b'"step_s":Infinity'),
    "an endless integer": GOOD.replace(b'"loss":4.0', b'"loss":1' + b"0" * 400),
    "a negative step": GOOD.replace(b'"step":2', b'"step":-2'),
    "nobody": GOOD.replace(b'"workers":3', b'"workers":0'),
    "a list in a list": GOOD.replace(b'"skipped":[]', b'"skipped":[[1]]'),
    "a wide taker": GOOD.replace(b"[[0,2],[1,2],[2,1]]", b"[[0,2],[4294967296,2],[2,1]]"),
    "no step": b'{"time": 1.0}\n',
    "an event": b'{"time": 1.0, "event": "finished", "step": 3}\n',
    "empty": b"\n",
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_line_is_left_out_and_one_sentence(how: str, folder: Store) -> None:
    assert DAMAGED[how] != GOOD
    content = encoded(step_records(1, 1, 0)) + DAMAGED[how] + encoded(step_records(3, 3, 3))
    (folder / "metrics.jsonl").write_bytes(content)
    run = Run(folder)
    assert [record["step"] for record in run.records("metrics.jsonl")] == [1, 3]
    (said,) = run.damage()
    assert said.startswith(f"{folder.url}/metrics.jsonl is damaged: line 2 ")
    assert "\n" not in said
    assert len(said) < len(folder.url) + 150
    run.append("metrics.jsonl", step_records(4, 4, 4))
    assert [record["step"] for record in run.records("metrics.jsonl")] == [1, 3, 4]
    with pytest.warns(UserWarning, match="is damaged"):
        assert frames.steps(folder).step.tolist() == [1, 3, 4]


@pytest.mark.parametrize("kind", sorted(EVENTS))
def test_an_event_that_lacks_a_field_is_left_out(kind: str) -> None:
    """Except for fields that the first versions did not record."""
    whole = {name: example_of(info.annotation) for name, info in EVENTS[kind].model_fields.items()} | {"event": kind}
    assert parsed(json.dumps(whole).encode(), "events")["event"] == kind
    for name, info in EVENTS[kind].model_fields.items():
        rest = json.dumps({other: value for other, value in whole.items() if other != name}).encode()
        if name in ("event", "time") or (info.is_required() and name not in EVENTS[kind].defaults):
            with pytest.raises(ValueError, match=f"has no `{name}`"):
                parsed(rest, "events")
        else:
            parsed(rest, "events")


def test_an_event_is_checked_too_and_an_unknown_one_stays(tmp_path: Path) -> None:
    lines = [event_at(0, "command", workers=[1, 1], environment={}), event_at(1, "of_a_later_version", anything=[1])]
    bad = ['{"time": 1, "event": ["x"]}', '{"time": 1, "event": "finished"}', '{"time": 1, "event": "failed", "step": ""}', "7"]
    (tmp_path / "events.jsonl").write_bytes(encoded(lines) + "\n".join([*bad, ""]).encode())
    run = Run(Store.at(tmp_path))
    assert run.records("events.jsonl") == lines
    (said,) = run.damage()
    assert "line 3 has `event` ['x'], which has the wrong type" in said
    assert said.endswith("and 3 more lines")


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("stopped", {"time": float("nan")}),
        ("stopped", {"time": 1.8e19}),
        ("stopped", {"step": -1}),
        ("evaluated", {"seconds": float("inf")}),
        ("workers_started", {"workers": 0}),
        ("command", {"workers": [1, 2, 3]}),
        ("command", {"environment": {"torch": 2}}),
        ("initialised", {"new": [1]}),
    ],
)
def test_an_unusable_event_is_damage(kind: str, fields: dict[str, Any], tmp_path: Path) -> None:
    good = [event_at(0, "command", workers=[1, 4], environment={"torch": "2"}), event_at(1, "too_few", workers=0, needed=2)]
    good.append(event_at(2, "evaluated", val_loss=float("inf"), step=1))  # a loss may be infinite
    run = run_with_records(tmp_path, [*good, event_at(3, kind) | fields])
    assert run.records("events.jsonl") == good
    assert len(run.damage()) == 1
    assert "is damaged: line 4 has" in standing(run)


def test_a_torn_segment_is_reported_too(place: Store) -> None:
    Writer(place, "metrics").append(step_records(1, 3, 0))
    (segment,) = (place / "metrics").children()
    segment.write_bytes(segment.read_bytes()[:-20])
    run = Run(place)
    assert [record["step"] for record in run.records("metrics.jsonl")] == [1, 2]
    assert ["…)" in said and "line 3 is not a JSON object" in said for said in run.damage()] == [True]


@given(st.binary(max_size=200))
def test_any_line_is_a_record_or_a_sentence(line: bytes) -> None:
    try:
        assert isinstance(parsed(line, "metrics")["time"], float | int)
    except ValueError as error:
        assert str(error).startswith(("is ", "has "))


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 8), st.sampled_from("ab")), max_size=12))
def test_current_segments_hold_all_numbers_once(drawn: list[tuple[int, int, str]]) -> None:
    """For nested ranges, as merging makes them."""
    segments = [
        Segment(first // size * size, first // size * size + size - 1, w) for first, n, w in drawn for size in [2 ** (n % 4)]
    ]

    def numbers(some: list[Segment]) -> list[tuple[str, int]]:
        return sorted((segment.writer, number) for segment in some for number in range(segment.first, segment.last + 1))

    assert numbers(current(set(segments))) == sorted(set(numbers(segments)))


def test_a_torn_tail_is_cut_off_without_reading_the_file(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(encoded(step_records(1, 2, 0)) + b"x" * 200_000)
    Writer(Store.at(tmp_path), "metrics").append(step_records(3, 3, 3))
    assert read(Store.at(tmp_path)) == [1, 2, 3]
    file.write_bytes(b"x" * 200_000)
    Writer(Store.at(tmp_path), "metrics").append(step_records(1, 1, 0))
    assert file.read_bytes() == encoded(step_records(1, 1, 0))


def test_ten_million_steps_of_many_micro_batches_fit_on_a_disk() -> None:
    """8 workers that lease 4,096 micro-batches in runs of some hundred: a few hundred bytes per step, a few GB in all."""
    takers = [(rank, 128) for _ in range(4) for rank in range(8)]
    record: dict[str, Any] = {**step_records(123_456, 123_456, 0)[0], "loss": 3.6860203126660820, "grad_norm": 0.4837261749182}
    record |= {"time": BEGAN + 0.123, "takers": takers, "lineage": "3f2a9c01"}
    assert len(encoded([record])) < 700
    assert sum(count for _, count in parsed(encoded([record]), "metrics")["takers"]) == 4096


def test_a_loss_that_is_not_finite_is_null_in_json(tmp_path: Path) -> None:
    infinite = event_at(2, "evaluated", step=1, val_loss=math.inf)
    run = run_with_records(tmp_path, [event_at(0, "command", workers=[1, 1]), infinite], step_records(1, 1, 0, loss=math.nan))
    lines: list[str] = []
    raw(run, False, lines.append, lines.append)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    read = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [(record.get("loss"), record.get("val_loss")) for record in read] == [(None, None)] * 3
    facts = run.facts()
    assert (facts.val_loss, json.loads(facts.to_json(), parse_constant=refuse)["val_loss"]) == (math.inf, None)


def test_users_get_frames_and_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = [{**record, "takers": [0, 1, 2, 0, 1], "mirrored": None} for record in step_records(1, 1, 0)]
    run = run_with_records(
        tmp_path,
        [
            event_at(0, "command", workers=[1, 2]),
            event_at(0.5, "workers_started", step=0, workers=2, device="cpu", state="storage", seconds=0.1),
        ],
        [*old, *step_records(2, 3, 1)],
    )
    place = run.folder.path
    frame = foundray.steps(place)
    assert frame.step.tolist() == [1, 2, 3]
    assert frame.loss.sum() == pytest.approx(2 + 4 + 2 + 2 + 2 + 4 / 3)
    assert [[rank for rank, _ in taken] for taken in frame.takers] == [[0, 1, 2, 0, 1], [0, 1, 2], [0, 1, 2]]
    assert [list(some) for some in frame.skipped] == [[], [], []]
    assert foundray.events(place).event.tolist() == ["command", "workers_started"]
    with (tmp_path / "small" / "metrics.jsonl").open("a") as stream:
        stream.write("torn\n")
    with pytest.warns(UserWarning, match="is damaged: line 4"):
        assert len(foundray.steps(place)) == 3
    main(["logs", place, "--json"])
    shown = capsys.readouterr()
    records = [json.loads(line) for line in shown.out.splitlines()]
    assert [record.get("event", record.get("step")) for record in records] == ["command", "workers_started", 1, 2, 3]
    assert shown.err.startswith("foundray: ") and "is damaged: line 4" in shown.err
    main(["logs", place])
    assert "is damaged: line 4" in capsys.readouterr().out
    main(["status", place])
    assert "is damaged: line 4" in capsys.readouterr().out
    main(["watch", place])
    assert "is damaged" in capsys.readouterr().out
    main(["report", place])
    assert "is damaged: line 4" in capsys.readouterr().err
    empty = run_with_records(tmp_path / "other").folder.path
    assert len(foundray.steps(empty)) == len(foundray.events(empty)) == 0
