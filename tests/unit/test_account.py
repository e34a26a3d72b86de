"""Where the time went: the parts sum to the whole."""

from __future__ import annotations

from typing import Any

import pytest

from foundray.account import account


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
