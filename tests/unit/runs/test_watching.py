"""Following a run's records: read once, added up correctly, described in words, and shown in the space available."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs
from rich.console import Console

from foundray.errors import InputError
from foundray.host.processes import home
from foundray.runs import following
from foundray.runs.following import Follower, Pulse, looks
from foundray.runs.goodput import account
from foundray.runs.logs import logs
from foundray.runs.progress import Progress
from foundray.runs.run import NOT_BEGUN, NotBegun, Run
from foundray.runs.status import standing
from foundray.runs.watching import View, watch
from foundray.storage import Store
from foundray.testing.records import untimed_event
from foundray.testing.specs import make_spec
from foundray.wording.plot import plot
from foundray.wording.sentences import plain, sentence

STEPS = 12


def step(number: int, at: float, **fields: Any) -> dict[str, Any]:
    measured = {"loss": 4.0 / number, "lr": 0.004, "grad_norm": 0.5, "step_s": 0.8, "data_wait_s": 0.1, "copy_s": 0.05}
    kept = {"workers": 2, "takers": [0, 1, 1, 1], "skipped": [], "spike": False, "data": "0", "passed_over": 0}
    return {"time": at, "step": number, "tokens": number * 64, "tokens_per_s": 80.0, **measured, **kept, **fields}


def happened(name: str, at: float, **fields: Any) -> dict[str, Any]:
    return {"time": at, **untimed_event(name, **fields)}


EVENTS = [
    happened("command", 100.0, workers=[1, 2]),
    happened("places", 101.0, pool="", request="train-0"),
    happened("workers_started", 110.0, step=0, workers=2, device="cpu", state="storage", seconds=0.1),
    happened("evaluated", 113.5, step=3, val_loss=1.75, val_tokens=99, seconds=0.25, bits_per_byte=2.5, effective_rank=7.0),
    happened("checkpoint", 113.6, step=3, bytes=5_000_000, seconds=0.1),
    happened("group_broken", 114.0, step=3, reason="a worker was lost"),
    happened("workers_started", 115.0, step=2, workers=1, device="cpu", state="memory", seconds=0.1),
]
METRICS = [step(1, 111.0), step(2, 112.0), step(3, 113.0), step(3, 116.0), step(4, 117.0), step(5, 118.0, spike=True)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run's folder without a record."""
    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(make_spec(train__steps=STEPS).to_yaml())
    (folder / "data.json").write_text("{}")
    return Run(Store.at(folder))


@pytest.fixture
def recorded(run: Run) -> Run:
    run.append("events.jsonl", EVENTS)
    run.append("metrics.jsonl", METRICS)
    return run


@pytest.mark.parametrize("names", [[], ["holder.json.7.tmp"], ["holder.json", "data.json"], ["checkpoints", "events.jsonl"]])
def test_a_run_that_is_being_made_is_not_begun(tmp_path: Path, names: list[str]) -> None:
    """A command that waits for it may look between any two of its first files."""
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(NotBegun, match=f"spec.yaml and data.json are not in it, so the run {NOT_BEGUN}"):
        Run.open(str(tmp_path))
    (tmp_path / "letter.txt").touch()
    with pytest.raises(InputError, match="are not in it; name one") as refused:
        Run.open(str(tmp_path))
    assert not isinstance(refused.value, NotBegun), "another folder is not waited for"


def test_a_search_and_its_trials_say_what_they_are(tmp_path: Path) -> None:
    trial = (search := tmp_path / "small-tune") / "trials" / "0000-a1"
    trial.mkdir(parents=True)
    (trial / "trial.json").touch()
    (search / "search.json").touch()
    unended = "and has not ended: the same `foundray tune` continues"
    with pytest.raises(InputError, match=f"{search} is a search, not a run, {unended}"):
        Run.open(str(search))
    (search / "ranking.json").touch()
    shown = f"not a run, and has ended: `foundray report {search}` shows how each trial did"
    for place, what in ((search, "a search"), (trial, f"a trial of the search {search}")):
        with pytest.raises(InputError, match=f"{place} is {what}, {shown}"):
            Run.open(str(place))


def progress_of(records: list[dict[str, Any]]) -> Progress:
    progress = Progress()
    progress.add(sorted(records, key=lambda record: record["time"]))
    return progress


def test_an_evaluation_that_a_cut_has_undone_is_not_the_last() -> None:
    cut = {"time": 4.0, "event": "rolled_back", "step": 310, "to": 200, "cut": "c0", "spike": 310, "passed_over": 1}
    found = [
        {"time": step / 100, "event": "evaluated", "step": step, "val_loss": 3.0, "seconds": 0.1} for step in (100, 200, 300)
    ]
    progress = progress_of([*found, cut, {**cut, "time": 5.0}])
    assert [event["step"] for event in progress.evaluated] == [100, 200]


def shown(progress: Progress, width: int = 80, height: int = 24, **fields: Any) -> list[str]:
    console = Console(record=True, width=width, height=height, file=io.StringIO())
    console.print(View("runs/small", make_spec(train__steps=STEPS), None, progress, **{"alive": True, **fields}))
    return console.export_text().splitlines()


# Following


def elsewhere(run: Run) -> Store:
    """The same folder as remote storage."""
    return Store(fs.SubTreeFileSystem(run.folder.path, fs.LocalFileSystem()), "", "far://run")


@pytest.mark.parametrize("remote", [False, True])
def test_a_follower_gives_every_record_once_and_in_order_of_time(run: Run, remote: bool) -> None:
    follower = Follower(elsewhere(run) if remote else run.folder)
    assert (follower.new(), follower.restarted) == ([], True)
    run.append("events.jsonl", EVENTS[:3])
    run.append("metrics.jsonl", METRICS[:1])
    assert [record["time"] for record in follower.new()] == [100.0, 101.0, 110.0, 111.0]
    assert (follower.new(), follower.restarted) == ([], False)
    run.append("metrics.jsonl", METRICS[1:2])
    run.append("events.jsonl", EVENTS[3:4])
    assert [record["time"] for record in follower.new()] == [112.0, 113.5]


def test_a_line_is_a_record_when_it_is_complete(run: Run) -> None:
    run.append("events.jsonl", EVENTS[:1])
    follower, line = Follower(run.folder), json.dumps(EVENTS[1]) + "\n"
    with Path(run.folder.path, "events.jsonl").open("a") as file:
        for part, count in ((line[:10], 1), (line[10:-1], 0), ("\n", 1)):
            file.write(part)
            file.flush()
            assert len(follower.new()) == count


def test_only_what_is_new_is_read(recorded: Run) -> None:
    """What was read before is overwritten, and not read again."""
    follower = Follower(recorded.folder)
    follower.new()
    file = Path(recorded.folder.path, "metrics.jsonl")
    file.write_bytes(b"x" * (file.stat().st_size - 1) + b"\n")
    recorded.append("metrics.jsonl", [step(6, 119.0)])
    assert [record["step"] for record in follower.new()] == [6]


def test_a_record_that_was_replaced_is_read_again(recorded: Run) -> None:
    follower = Follower(recorded.folder)
    follower.new()
    for name, record in (("events.jsonl", EVENTS[0]), ("metrics.jsonl", METRICS[0])):
        Path(recorded.folder.path, name).write_text(json.dumps(record) + "\n")
    assert [record["time"] for record in follower.new()] == [100.0, 111.0]
    assert follower.restarted
    Path(recorded.folder.path, "metrics.jsonl").unlink()
    assert [record["time"] for record in follower.new()] == [100.0]


def test_a_damaged_record_is_one_sentence(recorded: Run) -> None:
    with Path(recorded.folder.path, "events.jsonl").open("a") as file:
        file.write("{broken\n")
    follower = Follower(recorded.folder)
    assert len(follower.new()) == len(EVENTS) + len(METRICS)
    (said,) = follower.damage()
    assert said.endswith(f"events.jsonl is damaged: line {len(EVENTS) + 1} is not a JSON object ({{broken)")


def beat(run: Run, beats: int, **fields: Any) -> None:
    holder = {"token": "t", "beats": beats, "host": "elsewhere", "pid": 1, "process": "none", "user": "u"}
    (run.folder / "holder.json").write_text(json.dumps(holder | fields))


def test_the_pulse_of_a_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pulse = Pulse(run.folder)
    assert not pulse.beats(), "nobody holds the run"
    beat(run, 1)
    assert pulse.beats(), "elsewhere, its counter may yet move"
    monkeypatch.setattr(following, "PATIENCE_SECONDS", 0.0)
    assert not pulse.beats(), "it did not"
    monkeypatch.setattr(following, "PATIENCE_SECONDS", 9.0)
    beat(run, 2)
    assert pulse.beats()
    beat(run, 3, home=home())
    assert not pulse.beats(), "on this machine its process is gone"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A follower that waits only hundredths of seconds."""
    monkeypatch.setattr(following, "LOCAL_SECONDS", 0.01)
    monkeypatch.setattr(following, "PATIENCE_SECONDS", 0.2)
    yield


def test_watching_ends_with_the_run(recorded: Run, patient: None) -> None:
    found = looks(recorded)
    assert len(next(found).records) == len(EVENTS) + len(METRICS)
    recorded.append("events.jsonl", [happened("finished", 130.0, step=STEPS, weights_sha256="ab" * 32)])
    assert [record["event"] for look in found for record in look.records] == ["finished"]


def test_watching_ends_if_nobody_works_on_the_run(recorded: Run, patient: None) -> None:
    assert len(list(looks(recorded))) > 2


def test_a_run_that_is_yet_to_start_is_waited_for(run: Run, patient: None) -> None:
    found = looks(run)
    for _ in range(40):  # longer than it takes to give up a run that was interrupted
        assert next(found).records == []


def test_storage_that_is_away_for_a_while_is_reported(recorded: Run, patient: None) -> None:
    found = looks(recorded)
    next(found)
    events = Path(recorded.folder.path, "events.jsonl")
    events.rename(events.with_suffix(".away"))
    events.mkdir()
    assert "cannot be read" in next(found).problem
    events.rmdir()
    events.with_suffix(".away").rename(events)
    assert not next(found).problem


# Adding up


def test_the_progress_is_what_the_facts_say(recorded: Run) -> None:
    progress, facts = progress_of([*EVENTS, *METRICS]), recorded.facts()
    assert (progress.done, progress.repeated, progress.restarts.count) == (facts.step, facts.steps_repeated, facts.restarts)
    assert progress.worlds == [(world["step"], world["workers"]) for world in facts.worlds]
    assert (progress.seconds, round(progress.goodput or 0, 4)) == (pytest.approx(facts.seconds), facts.goodput)
    assert progress.account.parts() == account(EVENTS, METRICS) == facts.account
    assert progress.shares == {0: 0.25, 1: 0.75}
    assert list(progress.losses) == pytest.approx([4.0, 2.0, 4 / 3, 1.0, 0.8])
    assert progress.seconds_left(STEPS) == pytest.approx(7.0)


def test_the_account_is_the_same_one_record_at_a_time() -> None:
    progress = Progress()
    for record in sorted([*EVENTS, *METRICS], key=lambda record: record["time"]):
        progress.add([record])
        progress.account.parts()  # being asked in between changes nothing
    assert progress.account.parts() == account(EVENTS, METRICS)


# Showing


def test_the_view_fits_a_small_terminal(recorded: Run) -> None:
    lines = shown(progress_of([*EVENTS, *METRICS]))
    text = "\n".join(lines)
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    for said in (
        "step 5 of 12",
        "training",
        "about 7 s left",
        "80 tokens/s",
        "loss       0.8000",
        "1.7500 at step 3, 2.5000 bits per byte",
        "learning rate 0.004",
        "1 since step 2; before 2 from 0",
        "worker 0: 25%, 1: 75%",
        "checkpoint step 3, 4 s ago",
        "1 regrouping, 1 step repeated",
        "the group broke (a worker was lost)",
        "on steps that count",
    ):
        assert said in text, said


@pytest.mark.parametrize(("width", "height"), [(40, 10), (80, 24), (120, 30), (220, 60)])
def test_the_view_fits_every_terminal(width: int, height: int) -> None:
    for progress in (Progress(), progress_of(EVENTS[:1]), progress_of([*EVENTS, *METRICS])):
        lines = shown(progress, width, height)
        assert max(map(len, lines)) <= width
        assert len(lines) <= max(height, 24)


def test_a_group_that_has_not_stepped_yet_and_a_narrow_terminal() -> None:
    started = happened("workers_started", 120.0, step=5, workers=3, device="cpu", state="memory", seconds=0.1)
    text = "\n".join(shown(progress_of([*EVENTS, *METRICS, started])))
    assert "loss       0.8000 (nats per token)" in text
    assert max(map(len, shown(progress_of([*EVENTS, *METRICS]), width=10))) <= 10


def test_a_plain_terminal_gets_no_colour_and_no_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    for encoding, colourless, blocks in (("utf-8", True, True), ("ascii", True, False)):
        file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
        console = Console(file=file, force_terminal=True, width=80, height=24)
        console.print(View("runs/small", make_spec(train__steps=STEPS), None, progress_of([*EVENTS, *METRICS]), True))
        file.flush()
        text = file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
        assert ("\x1b[3" not in text, "█" in text) == (colourless, blocks)


@pytest.mark.parametrize(
    ("events", "alive", "state", "hint"),
    [
        ([], False, "yet to start", "waiting"),
        (EVENTS[:2], True, "starting", "the run continues"),
        (EVENTS[:6], True, "regrouping", "the run continues"),
        (EVENTS[:6], False, "interrupted", "foundray resume runs/small"),
        ([*EVENTS, happened("waiting", 140.0, reason="r")], True, "waiting for workers", "the run continues"),
        ([*EVENTS, happened("failed", 140.0, step=3, reason="r", exit_status=1)], False, "failed", "foundray resume"),
        ([*EVENTS, happened("finished", 140.0, step=12, weights_sha256="ab" * 32)], False, "finished", "foundray status"),
    ],
)
def test_the_state_is_shown_with_what_comes_next(events: list[dict[str, Any]], alive: bool, state: str, hint: str) -> None:
    lines = shown(progress_of(events), alive=alive)
    assert lines[0].endswith(state)
    assert hint in lines[-1]


def test_silence_and_problems_are_reported() -> None:
    text = "\n".join(shown(progress_of([*EVENTS, *METRICS]), quiet_s=75.0, problem="far://run cannot be read"))
    assert "nothing new for 1 min 15 s" in text
    assert "problem    far://run cannot be read" in text


def test_without_a_terminal_there_is_one_frame(recorded: Run) -> None:
    file = io.StringIO()
    watch(recorded, Console(file=file, width=80))
    assert file.getvalue().count("step 5 of 12") == 1
    assert "\x1b" not in file.getvalue()


def test_a_plot_names_its_ends_and_leaves_gaps() -> None:
    assert plot([], 20, 2) == ["", ""]
    assert plot([1.0], 9, 2) == ["     1   ", "     1 ▁▁"]
    assert plot([3.0, float("nan"), 1.0], 10, 2) == ["     3 █  ", "     1 █ ▁"]
    assert plot([3.0, 1.0], 9, 1, ascii_only=True) == ["     3 |."]


# Telling


def test_losses_are_in_the_unit_of_the_objective(run: Run) -> None:
    source, modality = {"path": "x", "format": "files"}, {"kind": "series", "patch": 6}
    objective = {"kind": "masked_patch"}
    spec = make_spec(objective=objective, train__steps=STEPS, data__modality=modality, data__sources=[source])
    (run.folder / "spec.yaml").write_text(spec.to_yaml())
    run.append("events.jsonl", EVENTS)
    run.append("metrics.jsonl", METRICS)
    said: list[str] = []
    logs(run, False, said.append)
    watch(run, Console(file=(file := io.StringIO()), width=80))
    for text in (standing(run), "\n".join(said), file.getvalue()):
        assert "squared error per value" in text and "nats" not in text


def test_status_describes_events_in_the_same_words(recorded: Run) -> None:
    recorded.append("events.jsonl", [happened("checkpoint", 120.0, step=5, bytes=5_000_000, seconds=0.1)])
    assert "kept" not in standing(recorded), "no checkpoint is there any more"
    kept = Path(recorded.checkpoints.path) / "step-00000003"
    kept.mkdir(parents=True)
    (kept / "manifest.json").write_text("{}")
    text = standing(recorded)
    assert "kept      step 3, " in text, "the newest that is there, not the last one written"
    assert "step 3: the group broke (a worker was lost)" in text
    assert "evaluated" not in text.partition("events")[2], "another line says what it does"


def test_logs_show_each_event_and_some_steps(recorded: Run) -> None:
    lines: list[str] = []
    logs(recorded, False, lines.append)
    texts = [line[21:] for line in lines]
    assert texts == [
        "a command begins, for 1 to 2 workers",
        "training on 2 workers, cpu",
        "step 1/12: loss 4.0000, 80 tokens/s, 2 workers, about 9 s left",
        "step 3: validation loss 1.7500 nats per token, 2.5000 bits per byte, features of effective rank 7.0",
        "step 3: a checkpoint of 5.0 MB is complete",
        "step 3: the group broke (a worker was lost)",
        "training on 1 worker, cpu at step 2",
        "step 5: the loss of 0.8000 is a spike; its update is not made",
    ]


def test_logs_follow_until_the_run_ends(recorded: Run, patient: None) -> None:
    lines: list[str] = []

    def out(line: str) -> None:
        if not lines:
            recorded.append("events.jsonl", [happened("failed", 130.0, step=5, reason="the disk is full", exit_status=1)])
        lines.append(line)

    logs(recorded, True, out)
    assert lines[-1].endswith("failed at step 5: the disk is full")


def test_what_comes_from_elsewhere_is_one_plain_line_without_keys() -> None:
    reason = "\x1b[36mray::task\x1b[0m\n  s3://key:secret@bucket/runs is away"
    assert plain(reason) == "ray::task s3://bucket/runs is away"
    shown_text = "\n".join(shown(progress_of([*EVENTS, happened("failed", 140.0, step=3, reason=reason, exit_status=1)])))
    assert "failed at step 3: ray::task s3://bucket/runs is away" in shown_text


def test_an_event_of_an_unknown_kind_is_shown_by_its_fields() -> None:
    assert sentence(happened("landed", 1.0, node="x", on="the moon")) == "landed: node x, on the moon"
