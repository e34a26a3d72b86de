"""What workers of one machine pass to each other in memory that all of them map: gloo's sockets would take several copies more.

Each worker has a *region*, which it alone writes and all read: two windows, used in turn. A round is: write your window, wait
until all have, read the others'. A window is written again two rounds later, when nobody can still read it. The group's own
collectives say when all have written, so who waits for a member that is gone learns it from them, as everywhere.

Regions are files without a name, which others open by way of /proc: nothing is left behind when a process is killed.
"""

from __future__ import annotations

import mmap
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

WINDOW = 2**23
"""Bytes of a window: enough that small models need one round, and each round one wait for the others."""
MARK = 32
"""Bytes at the beginning of a region by which the others know that it is the right one."""


class Exchange:
    def __init__(self, rank: int, regions: Sequence[mmap.mmap], wait: Callable[[], None]):
        """`regions` by rank. `wait` returns once all members have come there, and raises where one cannot."""
        self.rank, self.wait = rank, wait
        self.windows = [
            [torch.frombuffer(region, dtype=torch.uint8, offset=MARK + turn * WINDOW, count=WINDOW) for region in regions]
            for turn in (0, 1)
        ]
        self.turn = 0
        self.offered: list[Tensor] = []
        """The windows of a sum that has begun."""

    @property
    def world(self) -> int:
        return len(self.windows[0])

    def offer(self, parts: Sequence[Tensor]) -> None:
        """Begin to `reduce_to_owners`: where all meet for another reason before that, its first round need not wait."""
        self.offered = self._offered(parts, 0)

    def reduce_to_owners(self, parts: Sequence[Tensor]) -> None:
        """Add to this worker's own part what the others have of it; `parts` are flat, by owner."""
        mine = parts[self.rank]
        room = self._room(mine)
        for start in range(0, max(part.numel() for part in parts), room):
            windows, self.offered = self.offered, []
            if not windows:
                windows = self._offered(parts, start)
                self.wait()
            here = mine[start : start + room]
            for rank, window in enumerate(windows):
                if rank != self.rank:
                    here += window[self.rank, : here.numel()]

    def _room(self, part: Tensor) -> int:
        """Values of each owner's part that a round brings."""
        return WINDOW // self.world // part.element_size()

    def _offered(self, parts: Sequence[Tensor], start: int) -> list[Tensor]:
        """Write what the others own, from `start` on; gives the round's windows [owner, room] by rank."""
        room = self._room(parts[0])
        windows = [window.view(self.world, room) for window in self._round(parts[0].dtype, self.world * room)]
        for owner, part in enumerate(parts):
            if owner != self.rank:
                _put(part[start : start + room], windows[self.rank][owner])
        return windows

    def gather(self, parts: Sequence[Tensor]) -> None:
        """Fill in the others' parts; `parts` are flat, by owner."""
        room = WINDOW // parts[0].element_size()
        for start in range(0, max(part.numel() for part in parts), room):
            windows = self._round(parts[0].dtype, room)
            _put(parts[self.rank][start : start + room], windows[self.rank])
            self.wait()
            for owner, part in enumerate(parts):
                if owner != self.rank:
                    there = part[start : start + room]
                    there.copy_(windows[owner][: there.numel()])

    def _round(self, dtype: torch.dtype, count: int) -> list[Tensor]:
        """Begin a round; gives its windows by rank, as `count` values each."""
        self.turn = 1 - self.turn
        return [window[: count * dtype.itemsize].view(dtype) for window in self.windows[self.turn]]


def _put(values: Tensor, window: Tensor) -> None:
    window[: values.numel()] = values


def open_exchange(rank: int, share: Callable[[Any], list[Any]], wait: Callable[[], None]) -> Exchange | None:
    """An exchange of all members, if all are on one machine and can map each other's memory; else None.

    `share` gives every member's value, in rank order. What it and `wait` raise, where a member is gone, comes through.
    """
    file = _made_region()
    try:
        mark = secrets.token_hex(MARK // 2).encode()
        mine = None if file is None else _mapped(file)
        if mine:
            mine[:MARK] = mark
        told = share(None if file is None else [f"/proc/{os.getpid()}/fd/{file}", mark.decode()])
        regions = [mine if other == rank else _opened(one) for other, one in enumerate(told)]
        agreed = all(share(None not in regions))
    finally:
        if file is not None:
            os.close(file)
    return Exchange(rank, [region for region in regions if region], wait) if agreed else None


def _made_region() -> int | None:
    """A file without a name; None where there cannot be one."""
    if not sys.platform.startswith("linux"):
        return None
    file = None
    try:
        file = os.memfd_create("foundray")
        os.posix_fallocate(file, 0, MARK + 2 * WINDOW)  # or a write could end the process later, for want of memory
    except OSError:
        if file is not None:
            os.close(file)
        return None
    return file


def _mapped(file: int) -> mmap.mmap:
    return mmap.mmap(file, MARK + 2 * WINDOW)


def _opened(told: list[str] | None) -> mmap.mmap | None:
    """Another process's region; None where it is on another machine, or in another container."""
    if told is None:
        return None
    path, mark = told
    try:
        file = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        region = _mapped(file)
    except (OSError, ValueError):  # another kind of file, or a shorter one
        return None
    finally:
        os.close(file)
    return region if region[:MARK] == mark.encode() else None
