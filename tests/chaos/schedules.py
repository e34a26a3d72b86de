"""Seeded schedules of faults. After each of them a run has the state of an undisturbed one."""

from __future__ import annotations

import os
import random
from typing import NamedTuple

SURVIVED = (
    "worker", "rank_0", "evaluating", "frozen", "slot", "feeder", "node", "drain", "add", "storage", "full", "stall", "damage",
    "paused", "held_up", "second_command", "refused_deletes",
)  # fmt: skip
RESUMED = ("driver", "driver", "head", "everything")


class Moment(NamedTuple):
    """Faults that come together."""

    gap: int
    """Steps since the last moment's faults were over."""
    kinds: tuple[str, ...]


def schedule(seed: int, parted: bool) -> list[Moment]:
    """Plan three or four moments with one or two faults each; in some schedules the command has to be resumed.

    With `parted`, two nodes lose each other's packets at one of them.
    """
    dealer = random.Random(seed)
    plan = [
        Moment(dealer.randint(1, 8), tuple(dealer.sample(SURVIVED, dealer.choice([1, 1, 2]))))
        for _ in range(dealer.choice([3, 4]))
    ]
    if dealer.random() < 0.3:
        plan[-1] = Moment(plan[-1].gap, (dealer.choice(RESUMED),))
    if parted:
        index = dealer.randrange(len(plan) - 1)
        plan[index] = plan[index]._replace(kinds=("partition", *plan[index].kinds[1:]))
    return plan


def seeds(few: tuple[int, ...], odd: bool) -> list[int]:
    """`few`, or all odd or even ones of the CHAOS_RUNS first seeds."""
    return list(range(int(odd), int(os.environ["CHAOS_RUNS"]), 2)) if "CHAOS_RUNS" in os.environ else list(few)
