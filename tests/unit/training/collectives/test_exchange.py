"""What workers of one machine pass to each other in shared memory: the same values as gloo brings, and nothing left behind."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit import distributed
from tests.unit.training.step.test_exact_step import make_spec, steps

from foundray.spec import Spec
from foundray.training.collectives.exchange import open_exchange
from foundray.training.collectives.group import Group

BOUNDS = [(0, 2, 5), (0, 1_000_003, 2_000_001), (0, 700_000, 700_000, 3_000_000)]
"""Of the owners' parts, of two workers or three; the last has an owner of nothing, and takes several rounds."""


def values(rank: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randint(-(2**20), 2**20, (count,), generator=torch.Generator().manual_seed(rank)).to(dtype)


def both(group: Group, bounds: tuple[int, ...]) -> list[bool]:
    """Whether each collective gives with an exchange what it gives without one."""
    shared = Group(group.rank, group.world)
    shared.exchange = open_exchange(group.rank, group.world, group.share, 60)
    assert shared.exchange
    same = []
    for dtype in (torch.int64, torch.float32):
        for _ in range(3):
            mine = values(group.rank, bounds[-1] + 7, dtype)
            found = [one.reduce_to_owners(mine.clone(), bounds) for one in (group, shared)]
            whole = [mine[: bounds[-1]].clone() for _ in (group, shared)]
            group.gather(whole[0], bounds)
            shared.exchange.gather([whole[1][start:stop] for start, stop in pairwise(bounds)])
            shared.offer(offered := mine.clone(), bounds)
            shared.meet()
            found.append(shared.reduce_to_owners(offered, bounds))
            same += [torch.equal(found[0], other) for other in found[1:]] + [torch.equal(*whole)]
    return same


@pytest.mark.parametrize("bounds", BOUNDS)
def test_collectives_give_the_same_by_shared_memory_as_by_gloo(bounds: tuple[int, ...]) -> None:
    for same in distributed.run(len(bounds) - 1, both, bounds):
        assert same == [True] * 18


def left_behind(group: Group) -> tuple[int, int]:
    """Exchanges made one after the other, and what of their memory is still mapped when they are gone."""
    made = sum(open_exchange(group.rank, group.world, group.share, 60) is not None for _ in range(3))
    return made, Path("/proc/self/maps").read_text().count("memfd:foundray")


def test_an_exchange_that_is_gone_leaves_nothing_behind() -> None:
    assert distributed.run(2, left_behind) == [(3, 0)] * 2


def one_elsewhere(group: Group) -> list[Any]:
    """As where rank 1 runs on another machine: what it names is not there, or is another's."""
    found = []
    for named in ("/proc/1/fd/999999", "/proc/self/exe", "/dev/null"):

        def share(value: Any, named: str = named) -> list[Any]:
            if isinstance(value, list) and group.rank == 1:
                value = [named, *value[1:]]
            return group.share(value)

        found.append(open_exchange(group.rank, group.world, share, 60))
    return found


def test_workers_that_cannot_map_each_other_s_memory_do_without() -> None:
    assert distributed.run(2, one_elsewhere) == [[None] * 3] * 2


def steps_by_exchange(group: Group, spec: Spec, count: int, skew: int | None) -> Any:
    group.exchange = open_exchange(group.rank, group.world, group.share, 60)
    assert group.exchange
    return steps(group, spec, count, skew)


def test_steps_have_the_same_bits_by_shared_memory() -> None:
    """Also where a worker computes nothing of a step: it has nothing to add to the sum."""
    spec = make_spec(model__width=64, train__micro_batches=2)
    alone = steps(Group(), spec, 3, None)
    for world, skew in ((2, None), (2, 1), (3, None)):
        assert set(map(str, distributed.run(world, steps_by_exchange, spec, 3, skew))) == {str(alone)}
