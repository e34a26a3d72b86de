"""Where the time went: parts that sum to the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foundray.runs.goodput import account
from foundray.runs.progress import Progress
from foundray.runs.restarts import restarts
from foundray.testing.records import event_at, step_records
from foundray.testing.runs import run_with_records


def step(time: float, number: int, step_s: float = 1.0, wait: float = 0.25, copy: float = 0.0) -> dict[str, Any]:
    return {"time": time, "step": number, "step_s": step_s, "data_wait_s": wait, "copy_s": copy}


def test_the_parts_of_a_run_with_a_fault_and_a_second_command() -> None:
    events: list[dict[str, Any]] = [
        {"time": 100.0, "event": "command"},
        {"time": 112.0, "event": "evaluated", "seconds": 0.5},
        {"time": 113.0, "event": "group_broken"},
        {"time": 200.0, "event": "command"},
        {"time": 206.0, "event": "finished"},
    ]
    metrics = [step(111.0, 1), step(112.9, 2, copy=0.125), step(117.0, 2), step(118.0, 3), step(205.0, 4)]
    parts = account(events, metrics)
    assert sum(parts.values()) == pytest.approx((118.0 - 100.0) + (206.0 - 200.0))
    assert parts["stepping"] == pytest.approx(4 * 0.75)
    assert parts["repeated"] == pytest.approx(0.75)
    assert parts["data_wait"] == pytest.approx(5 * 0.25)
    assert parts["starting"] == pytest.approx(10.0 + 4.0)
    assert parts["recovery"] == pytest.approx(3.0)
    assert (parts["evaluating"], parts["copying"]) == (0.5, 0.125)


def test_nothing_is_nothing() -> None:
    assert sum(account([], []).values()) == 0


@pytest.mark.parametrize(("seconds", "goodput"), [(0.0, None), (0.0004, None), (1.0, 0.75), (4.0, 0.1875)])
def test_a_run_of_no_duration_has_no_goodput(tmp_path: Path, seconds: float, goodput: float | None) -> None:
    """A fast machine's clock may show one time for a command and its first step: 0.75 s by its own account."""
    run = run_with_records(tmp_path, [event_at(0.0, "command")], step_records(1, 1, seconds - 1.0, data_wait_s=0.25))
    progress = Progress()
    progress.add(run.story())
    assert run.facts().goodput == goodput
    assert progress.goodput == (None if goodput is None else pytest.approx(goodput))


HOURS = 8 * 3600.0


@pytest.mark.parametrize("end", ["stopped", "failed", "finished", None])
@pytest.mark.parametrize("waiting", [False, True])
def test_a_pause_between_two_commands_is_not_running_time(end: str | None, waiting: bool) -> None:
    """However the first command ended, whatever it waited for, and although Ray Train requests slots meanwhile."""
    events: list[dict[str, Any]] = [{"time": 100.0, "event": "command"}]
    if waiting:
        events.append({"time": 111.5, "event": "group_broken"})
    if end:
        events += [{"time": 112.0, "event": end}, {"time": 113.0, "event": "member_lost"}]
    events += [
        {"time": HOURS - 1, "event": "places"},
        {"time": HOURS, "event": "command"},
        {"time": HOURS + 5, "event": "stopped"},
    ]
    parts = account(events, [step(111.0, 1), step(HOURS + 4, 2)])
    assert sum(parts.values()) == pytest.approx((12.0 if end else 11.5 if waiting else 11.0) + 5.0)
    assert parts["recovery"] == pytest.approx(0.5 if waiting and end else 0.0)
    assert parts["starting"] == pytest.approx(10.0 + 3.0)
    assert all(seconds >= 0 for seconds in parts.values())


def test_groups_after_a_clean_stop_are_not_restarts() -> None:
    def count(*kinds: str) -> int:
        return restarts({"event": kind} for kind in kinds)

    assert count("command", "workers_started", "stopped", "command", "workers_started", "finished") == 0
    assert count("command", "workers_started", "group_broken", "workers_started", "stopped") == 1
    assert count("command", "workers_started", "command", "workers_started") == 1, "the first was killed"
    assert count("command", "workers_started", "failed", "command", "workers_started") == 1
    assert count("command", "stopped", "command", "workers_started", "workers_started") == 1
