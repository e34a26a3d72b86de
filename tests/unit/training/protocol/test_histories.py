"""The real protocol through thousands of simulated histories of faults, and controls that broken ones are found."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from tests.repository import REPOSITORY
from tests.simulation.histories import FAULTS, Fault, History, of_seed, run
from tests.simulation.model import Setup
from tests.simulation.mutants import MUTANTS
from tests.simulation.search import failure, search
from tests.simulation.shrink import shrunk
from tests.simulation.world import LIMIT_SECONDS, World

HISTORIES = 10_000
BREAKS_IN_A_ROW = History(
    4317,
    Setup(steps=12, fewest=2, most=2, mirror_every=2, checkpoint_every=4, keep=2, recheck_every=2),
    2,
    (
        Fault(1.6766234572395127, "storage_away", 0.535370941996231),
        Fault(2.6507819805526998, "crash_updated", 0.4561021699596597),
        Fault(5.919951827780423, "corrupt", 0.3835765276347898),
        Fault(8.215108831582437, "crash_updated", 0.14920234844955527),
        Fault(12.093182264972093, "failing_joins", 0.9071370586635704),
        Fault(13.058301516420094, "kill_after_cut", 0.012938854553786627),
    ),
)
SAME_CUT_TWICE = History(
    10083,
    Setup(
        steps=8, fewest=2, most=2, mirror_every=1, checkpoint_every=1, keep=3, roll_back=3, recheck_every=2, step_s=0.03,
        spikes=frozenset({1, 4}),
    ),
    3,
    (
        Fault(0.9477661340715029, "refused_deletes", 0.5748195359809491),
        Fault(2.568376965209314, "second_command", 0.7068257473657091),
        Fault(5.032137098516161, "late", 0.6310820347812658),
        Fault(5.547283729746315, "hold_up_command", 0.58279475321279),
        Fault(6.016814912531284, "second_command", 0.02531068746585652),
        Fault(9.955462249879673, "feeder", 0.4285840015952117),
    ),
)  # fmt: skip
"""Histories of faults that few seeds have."""
FOUND = {
    "undone states are deleted": (of_seed(17), "the result is another one"),
    "each worker looks for the newest checkpoint": (of_seed(29), "the result is another one"),
    "sources are not kept": (BREAKS_IN_A_ROW, "had a whole state"),
    "copies are not awaited": (of_seed(1355), "steps are repeated after the loss of one worker"),
    "a step has one folder": (of_seed(6), "a shard is gone"),
    "late answers count": (of_seed(983), "an unknown transition"),
    "causes are not found": (of_seed(6), "again and again"),
    "a cut counts as often as it is recorded": (SAME_CUT_TWICE, "steps are repeated"),
    "a checkpoint that never answers is tried again": (of_seed(154), "not finished after 12 commands"),
    "errors of workers are not heard": (of_seed(0), "does not end with the error of a worker"),
}
"""For each broken protocol, a history that it fails, and what does not hold in it.

If the simulation changes, others may be needed: `failure(of_seed(seed), MUTANTS[name])` tells for each.
"""


def test_all_holds_in_ten_thousand_histories() -> None:
    found = [f"python -m tests.simulation {seed}: {problem}" for seed, problem in search(0, HISTORIES)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_protocol_is_found(name: str) -> None:
    history, expected = FOUND[name]
    assert not failure(history), "the protocol itself passes"
    assert expected in failure(history, MUTANTS[name]), f"{name}: {MUTANTS[name].__doc__}"


@pytest.mark.parametrize("name", ["undone states are deleted", "late answers count"])
def test_a_failing_history_is_made_shorter(name: str) -> None:
    history, _ = FOUND[name]
    # Faults that change nothing, because the run is long over, are dropped at least.
    whole = replace(history, faults=(*history.faults, *(Fault(3000.0 + index, "join", 0.5) for index in range(3))))
    short = shrunk(whole, lambda history: bool(failure(history, MUTANTS[name])))
    assert len(short.faults) < len(whole.faults) - 2
    assert failure(short, MUTANTS[name]), "and it still fails"
    assert all(not failure(fewer, MUTANTS[name]) for fewer in without_one(short)), "with none to spare"


def without_one(history: History) -> list[History]:
    return [replace(history, faults=history.faults[:i] + history.faults[i + 1 :]) for i in range(len(history.faults))]


SUMMARY = """
from tests.simulation.histories import of_seed, run
for seed in range(40):
    world = run(of_seed(seed))
    print(of_seed(seed), world.clock.now, world.clock.made, world.generations, sorted(world.counts.items()), world.finished)
"""


def test_a_seed_gives_the_same_history_in_every_process() -> None:
    """Whatever the order of sets, which follows from `PYTHONHASHSEED`."""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", SUMMARY],
            cwd=REPOSITORY, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2", "2")
    ]  # fmt: skip
    assert outputs[0].count("History(") == 40
    assert outputs[0] == outputs[1] == outputs[2]


def test_a_seed_gives_the_same_history_twice() -> None:
    for seed in range(20):
        one, other = run(of_seed(seed)), run(of_seed(seed))
        assert of_seed(seed) == of_seed(seed)
        assert (one.clock.now, one.clock.made, one.counts, one.finished) == (
            other.clock.now, other.clock.made, other.counts, other.finished
        )  # fmt: skip


class Faults(RuleBasedStateMachine):
    """Any faults at any times: Hypothesis looks for a short history in which something does not hold."""

    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        history = of_seed(seed)
        self.world = World(history.setup, history.nodes, seed)

    def over(self) -> bool:
        return self.world.finished is not None

    @rule(seconds=st.floats(0.01, 5.0))
    def time_passes(self, seconds: float) -> None:
        self.world.clock.run(self.world.clock.now + seconds, self.over)

    @rule(kind=st.sampled_from(sorted(set(FAULTS) - {"corrupt"})), amount=st.floats(0.0, 0.999))
    def a_fault_strikes(self, kind: str, amount: float) -> None:
        """Corrupt bits are found only if the run rechecks, which not every one does."""
        if not self.over():
            FAULTS[kind](self.world, amount)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.clock.run(LIMIT_SECONDS, self.over)
            self.world.check_end()


Faults.TestCase.settings = settings(
    max_examples=200, stateful_step_count=12, derandomize=True, deadline=None, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
TestFaults = Faults.TestCase
