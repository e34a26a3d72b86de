"""Exchange between workers of one machine in shared memory: the same values as with gloo, and nothing left behind."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from foundray.spec import Spec
from foundray.testing.groups import run_group
from foundray.testing.specs import make_spec
from foundray.testing.trainers import train_steps
from foundray.training.collectives.exchange import open_exchange
from foundray.training.collectives.group import Group
from foundray.training.collectives.meeting import LostConnection, Meeting

BOUNDS = [(0, 2, 5), (0, 1_000_003, 2_000_001), (0, 700_000, 700_000, 3_000_000)]
"""Sizes of the owners' parts, for two or three workers; in the last, one owns nothing, and there are several rounds."""


def values(rank: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randint(-(2**20), 2**20, (count,), generator=torch.Generator().manual_seed(rank)).to(dtype)


def both(group: Group, bounds: tuple[int, ...]) -> list[bool]:
    """Whether each collective gives the same result with and without an exchange."""
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
    for same in run_group(len(bounds) - 1, both, bounds):
        assert same == [True] * 18


def left_behind(group: Group) -> tuple[int, int]:
    """(exchanges made one after another, mappings of their memory that remain)."""
    made = sum(open_exchange(group.rank, group.world, group.share, 60) is not None for _ in range(3))
    return made, Path("/proc/self/maps").read_text().count("memfd:foundray")


def test_an_exchange_that_is_gone_leaves_nothing_behind() -> None:
    assert run_group(2, left_behind) == [(3, 0)] * 2


def one_elsewhere(group: Group) -> list[Any]:
    """As if rank 1 ran on another machine: the names that it offers do not exist, or belong to others."""
    found = []
    for named in ("/proc/1/fd/999999", "/proc/self/exe", "/dev/null"):

        def share(value: Any, named: str = named) -> list[Any]:
            if isinstance(value, list) and group.rank == 1:
                value = [named, *value[1:]]
            return group.share(value)

        found.append(open_exchange(group.rank, group.world, share, 60))
    return found


def test_workers_that_cannot_map_each_others_memory_use_no_exchange() -> None:
    assert run_group(2, one_elsewhere) == [[None] * 3] * 2


def steps_by_exchange(group: Group, spec: Spec, count: int, skew: int | None) -> Any:
    group.exchange = open_exchange(group.rank, group.world, group.share, 60)
    assert group.exchange
    return train_steps(group, spec, count, skew)


def test_steps_have_the_same_bits_by_shared_memory() -> None:
    """Also if a worker computes nothing of a step, and so has nothing to add to the sum."""
    spec = make_spec(model__width=64, train__micro_batches=2)
    alone = train_steps(Group(), spec, 3, None)
    for world, skew in ((2, None), (2, 1), (3, None)):
        assert set(map(str, run_group(world, steps_by_exchange, spec, 3, skew))) == {str(alone)}


class Stopped(Exception):
    """Stands for the loss of another worker."""


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def shared_alone(failing: int) -> Callable[[Any], list[Any]]:
    """A group of two in which this worker also plays the other; the `failing`-th call raises, as if the other were gone."""
    calls = itertools.count(1)

    def share(value: Any) -> list[Any]:
        if next(calls) == failing:
            raise Stopped
        if isinstance(value, list):
            return [value, [*value[:2], {"0": value[2]["1"]}]]  # its own region and pipe stand for the other's
        return [value, value]

    return share


def test_an_exchange_that_does_not_open_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    for failing in (1, 2):
        with pytest.raises(Stopped):
            open_exchange(0, 2, shared_alone(failing), 60)
    assert descriptors() == before
    made = open_exchange(0, 2, shared_alone(0), 60)
    maps = 2  # Python keeps a descriptor of each map
    assert made and descriptors() == before + maps + 3
    made.meeting.close()
    made.meeting.close()
    made.meeting.abort()
    assert descriptors() == before + maps
    with pytest.raises(LostConnection, match="has left"):
        made.meeting.wait()
    del made
    assert descriptors() == before

    def refused(*_: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    for name in ("pipe", "eventfd", "memfd_create"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, refused)
            assert open_exchange(0, 2, shared_alone(0), 60) is None
        assert descriptors() == before, name


def test_a_worker_that_is_gone_is_noticed_behind_a_silent_one() -> None:
    silent, gone = os.pipe(), os.pipe()
    meeting = Meeting([silent[0], gone[0]], [], 60)
    os.close(gone[1])
    with pytest.raises(LostConnection, match="is gone"):
        meeting.wait()
    with pytest.raises(LostConnection, match="silent"):
        Meeting([silent[0]], [], 0.01).wait()
    for descriptor in (*silent, gone[0]):
        os.close(descriptor)


def offered(group: Group) -> list[str]:
    """Results of collectives that would overwrite a window which others may still read."""
    shared = Group(group.rank, group.world)
    shared.exchange = open_exchange(group.rank, group.world, group.share, 60)
    assert shared.exchange
    refused = []
    shared.offer(torch.ones(5), (0, 2, 5))
    for again in (lambda: shared.offer(torch.ones(5), (0, 2, 5)), lambda: shared.gather(torch.ones(5), (0, 2, 5))):
        try:
            again()
        except AssertionError as error:
            refused.append(str(error))
    return refused


def test_an_offer_is_not_overwritten() -> None:
    for refused in run_group(2, offered):
        assert refused == ["a reduction has been offered already", "its windows would be written again"]
