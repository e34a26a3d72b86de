"""What `foundray.testing` gives other packages."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.repository import REPOSITORY

from foundray.testing.clock import SimulatedClock
from foundray.testing.groups import run_group
from foundray.testing.waiting import wait_until
from foundray.training.collectives.group import Group


def test_the_example_of_the_how_to_is_complete() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs/how-to/test.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    for test in tests:
        test()
    assert len(tests) == 1


def rank_of(group: Group, failing: int) -> int:
    if group.rank == failing:
        raise ValueError("this rank fails")
    return group.rank


def test_a_function_that_fails_on_one_worker_fails_with_its_traceback_and_the_next_call_works() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)rank 1 failed:.*ValueError: this rank fails"):
        run_group(2, rank_of, 1)
    assert run_group(2, rank_of, -1) == [0, 1]


def test_a_simulated_clock_advances_when_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimulatedClock(now=1000.0)
    with monkeypatch.context() as patch:
        clock.install(patch.setattr)
        began = time.monotonic()
        time.sleep(5)
        clock.advance(2)
        clock.jump(-3600)
        assert (time.time(), time.monotonic() - began) == (1000.0 + 7 - 3600, 7)
    assert time.time() > 1e9, "the standard functions are back"
    with pytest.raises(ValueError, match="`jump`"):
        clock.advance(-1)


@pytest.mark.parametrize("what", ["the third look", lambda: "the third look"])
def test_waiting_gives_what_was_waited_for_or_says_what_it_was(
    what: str | Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    SimulatedClock().install(monkeypatch.setattr)
    looks = iter([0, 0, 3])
    assert wait_until(lambda: next(looks), 60, what) == 3
    with pytest.raises(TimeoutError, match=r"^not within 60 s: the third look$"):
        wait_until(lambda: None, 60, what)
