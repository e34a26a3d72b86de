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
from tests.simulation.histories import FAULTS, Fault, History, of_seed, of_teams, run
from tests.simulation.model import Setup
from tests.simulation.mutants import MUTANTS
from tests.simulation.search import failure, search
from tests.simulation.shrink import shrunk
from tests.simulation.world import LIMIT_SECONDS, World

from foundray.training.protocol.messages import GiveUp

HISTORIES, OF_TEAMS = 10_000, 500
STOP_WITHOUT_LEASES = History(0, Setup(), 2, (Fault(3.5, "feeder_away", 0.9), Fault(4.5, "stop", 0.5)))
STOP_ALL_STORED = History(0, Setup(), 2, (Fault(4.5, "feeder_away", 0.9), Fault(5.5, "stop", 0.5)))
"""Histories of faults that few seeds have.

In `STOP_WITHOUT_LEASES`, steps are recorded and not stored, so only the limit for the leases ends the command. In
`STOP_ALL_STORED`, the last step has a checkpoint, so the command ends at once: a protocol without that limit passes it.
"""
FOUND = {
    "undone states are deleted": (of_seed(17), "the result is another one"),
    "each worker looks for the newest checkpoint": (of_seed(29), "the result is another one"),
    "sources are not kept": (of_seed(5137), "had a whole state"),
    "copies are not awaited": (of_seed(11279), "steps are repeated after the loss of one worker"),
    "a step has one folder": (of_seed(6), "a shard is gone"),
    "late answers count": (of_seed(2108), "an unknown transition"),
    "causes are not found": (of_seed(6), "again and again"),
    "a cut counts as often as it is recorded": (of_seed(3847), "not finished after 12 commands"),
    "a checkpoint that never answers is tried again": (of_seed(154), "not finished after 12 commands"),
    "errors of workers are not heard": (of_seed(0), "does not end with the error of a worker"),
    "a stop waits for leases": (STOP_WITHOUT_LEASES, "from the request to stop"),
    "a stop waits for a group, though all is stored": (STOP_ALL_STORED, "from the request to stop"),
    "orders are taken for delivered": (of_seed(89957), "the run is not finished"),
    "cuts of other commands are not read": (of_seed(60146), "the result is another one"),
    "a recheck that was due is taken for passed": (of_seed(89715), "the result is another one"),
    "kinds of devices are not seen": (of_teams(0), "not teams of 2 of one kind each"),
}
"""For each broken protocol, a history that it fails, and what does not hold in it.

If the simulation changes, others may be needed: `failure(of_seed(seed), MUTANTS[name])` tells for each.
"""


def test_all_holds_in_ten_thousand_histories() -> None:
    found = [f"python -m tests.simulation {seed}: {problem}" for seed, problem in search(0, HISTORIES)]
    assert not found, "\n".join(found)


def test_all_holds_in_histories_of_teams_on_two_kinds_of_devices() -> None:
    found = [(seed, problem) for seed in range(OF_TEAMS) if (problem := failure(of_teams(seed)))]
    assert not found, "\n".join(f"python -m tests.simulation {seed} --teams: {problem}" for seed, problem in found)


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


def test_a_partition_that_stays_ends_the_command_and_resuming_continues() -> None:
    """Workers that cannot reach each other do not know whom to leave out: the command gives up and says how to continue."""
    world = World(Setup(steps=12, fewest=1, most=2, checkpoint_every=4), 2, 0)
    first = world.drivers[0]
    world.clock.run(6.5, lambda: False)
    world.partitions.append((float("inf"), *world.nodes))
    world.clock.run(LIMIT_SECONDS, lambda: not first.alive)
    assert isinstance(first.ended, GiveUp) and first.ended.exit_status == 1
    stored = world.storage.complete()[0].step
    step = first.protocol.recorded
    failed = f"the run failed 9 times at step {step}: timed out"
    assert first.ended.reason == f"{failed}; `foundray resume` continues from the last checkpoint"
    assert 0 < stored <= step < 12, "there is something to continue from, and to do"
    # The network is mended, and the user resumes.
    world.partitions.clear()
    world.clock.run(LIMIT_SECONDS, lambda: world.finished is not None)
    world.check_end()
    assert world.commands == 2
    assert world.counts["group_broken"] == 9


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
