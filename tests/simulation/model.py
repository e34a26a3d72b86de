"""What is trained in a simulation: numbers that tell exactly from which steps a state came."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from foundray.spec import Spec
from foundray.testing.specs import make_spec
from foundray.training.rollback import RollBack, appended, next_turn, passed_over, roll_back

BLOCKS = 6
Weights = tuple[int, ...]
"""A number per block."""
NEW: Weights = tuple(range(BLOCKS))


class Setup(NamedTuple):
    """A run."""

    steps: int = 12
    fewest: int = 1
    most: int = 3
    mirror_every: int = 2
    checkpoint_every: int = 4
    keep: int = 2
    roll_back: int = 0
    recheck_every: int = 0
    step_s: float = 0.3
    """Shortest duration of a step."""
    spikes: frozenset[int] = frozenset()
    """Data steps whose loss is a spike."""
    team: int = 1
    """Workers that hold one copy of the model between them."""
    kinds: int = 1
    """Kinds of devices: the nodes have them in turn."""

    def spec(self) -> Spec:
        return _spec(self)

    def offset(self, roll_backs: tuple[RollBack, ...], done: int) -> int:
        return passed_over(roll_backs, done)

    def until(self, roll_backs: tuple[RollBack, ...], done: int) -> int:
        return next_turn(roll_backs, done) or self.steps


_BASE = make_spec(guard__spike=9.0, guard__roll_back=4)


@lru_cache(4096)
def _spec(setup: Setup) -> Spec:
    """The run's spec, made without the checks that take longer than a history."""
    train = {"steps": setup.steps, "checkpoint_every": setup.checkpoint_every, "keep_checkpoints": setup.keep}
    guard = {"roll_back": setup.roll_back or None, "recheck_every": setup.recheck_every or None}
    return _BASE.model_copy(
        update={
            "train": _BASE.train.model_copy(update=train),
            "fault": _BASE.fault.model_copy(update={"mirror_every": setup.mirror_every}),
            "guard": _BASE.guard.model_copy(update=guard),
            "scale": _BASE.scale.model_copy(update={"workers": (setup.fewest, setup.most), "team": setup.team}),
        }
    )


def updated(weights: Weights, data: int, combined: int) -> Weights:
    """The weights after a step on these data; `combined` stands for what all workers computed."""
    return tuple([hash((block, data, combined)) for block in weights])


def gradient(weights: Weights) -> int:
    """What a worker computes from its weights."""
    return hash(weights)


def together(gradients: set[int]) -> int:
    """What all workers compute: of equal weights the same, whoever takes part."""
    return gradients.pop() if len(gradients) == 1 else hash(tuple(sorted(gradients)))


@lru_cache(4096)
def undisturbed(setup: Setup) -> Weights:
    """The weights at the end of a run without faults."""
    states, roll_backs, done = {0: NEW}, (), 0
    while done < setup.steps:
        data = done + passed_over(roll_backs, done)
        if data in setup.spikes and setup.roll_back:
            new = roll_back(roll_backs, done + 1, setup.roll_back)
            roll_backs, done = appended(roll_backs, new), new.to
            continue
        states[done + 1] = updated(states[done], data, gradient(states[done]))
        done += 1
    return states[done]
