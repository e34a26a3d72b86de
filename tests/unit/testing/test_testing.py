"""What `foundray.testing` gives other packages."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable
from subprocess import PIPE, Popen
from types import ModuleType
from typing import Any, Literal

import pytest
from tests.repository import REPOSITORY

from foundray.records.schema import EVENTS
from foundray.testing.clock import SimulatedClock
from foundray.testing.groups import run_group
from foundray.testing.records import event_at, example_of
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


def end(group: Group, ending: int) -> None:
    if group.rank == ending:
        os._exit(3)


def test_a_process_that_ends_is_named_with_its_status_and_the_next_call_works() -> None:
    with pytest.raises(RuntimeError, match=r"rank 1 ended with status 3"):
        run_group(2, end, 1)
    assert run_group(2, rank_of, -1) == [0, 1]


def test_a_process_that_ended_between_two_calls_is_named_too() -> None:
    run_group(2, rank_of, -1)
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    with pytest.raises(RuntimeError, match=r"rank 0 ended with status -9\nrank 1 ended with status -9"):
        run_group(2, rank_of, -1)


def test_a_function_that_the_processes_cannot_find_fails_with_their_tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("only_in_this_process")
    exec("def function(group): ...", module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(RuntimeError, match=r"(?s)rank 0 failed:\nTraceback.*ModuleNotFoundError.*only_in_this_process"):
        run_group(1, module.function)


def test_every_kind_of_event_has_an_example_of_its_form() -> None:
    for kind, form in EVENTS.items():
        form.model_validate(event_at(0, kind))


@pytest.mark.parametrize(
    ("annotation", "example"),
    [
        (tuple[int, str], [1, "x"]),
        (tuple[int, ...], []),
        (list[tuple[int, int]], []),
        (None | int, 1),
        (str | None, "x"),
        (Literal["storage", "memory"], "storage"),
    ],
)
def test_an_example_is_of_its_type(annotation: Any, example: object) -> None:
    assert example_of(annotation) == example


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


@pytest.mark.parametrize("text", [False, True])
def test_waiting_ends_with_the_process_and_shows_what_it_wrote(text: bool) -> None:
    code = "import sys; print('said'); print('why', file=sys.stderr); sys.exit(3)"
    process = Popen([sys.executable, "-c", code], stdout=PIPE, stderr=PIPE, text=text)
    with pytest.raises(RuntimeError, match=r"^the process ended with 3 before its file\nsaid\n\nwhy\n$"):
        wait_until(lambda: False, 60, "its file", process)


class Ending:
    """A process that writes as it ends."""

    written = False

    def poll(self) -> int:
        self.written = True
        return 0


def test_what_a_process_did_before_it_ended_counts() -> None:
    process = Ending()
    assert wait_until(lambda: process.written, 60, "its file", process)
