"""Collectives between workers of one machine in shared memory, which saves the several copies of gloo's sockets.

Each worker has a *region*, which it alone writes and all read. It consists of windows, two of each kind, used in turn. In a
round, a worker writes its window, waits until all have written (`meeting`), and reads the others'. A window is written again
two rounds later, when nobody can still read it.

Regions are files without a name, which others open through /proc, so a killed process leaves nothing behind.
"""

from __future__ import annotations

import mmap
import os
import secrets
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foundray.training.collectives.meeting import Meeting, close_all, open_ends

WINDOW = 2**23
"""Bytes of a window for parameters: small models need one round, and each round waits for the others once."""
SMALL = 2**20
"""Bytes of a window for small values that all sum."""
MARK = 32
"""Bytes at the beginning of a region that identify it to the others."""
REGION = MARK + 2 * (SMALL + WINDOW)


class Exchange:
    def __init__(self, rank: int, regions: Sequence[mmap.mmap], meeting: Meeting):
        """Use `regions`, by rank."""
        self.rank, self.meeting = rank, meeting

        def windows(begin: int, size: int) -> Windows:
            return Windows(
                [
                    [torch.frombuffer(region, dtype=torch.uint8, offset=begin + turn * size, count=size) for region in regions]
                    for turn in (0, 1)
                ]
            )

        self.small, self.large = windows(MARK, SMALL), windows(MARK + 2 * SMALL, WINDOW)
        self.offered: list[Tensor] = []
        """The windows of a reduction that has been offered; empty if there is none."""

    @property
    def world(self) -> int:
        return len(self.small.of[0])

    def sum(self, values: Tensor) -> None:
        """Sum over all workers, in place and in rank order; `values` are contiguous."""
        flat, room = values.view(-1), SMALL // values.element_size()
        for part in flat.split(room):
            windows = self.small.next(part.dtype, part.numel())
            windows[self.rank].copy_(part)
            self.meeting.wait()
            part.copy_(windows[0])
            for window in windows[1:]:
                part += window

    def offer(self, parts: Sequence[Tensor]) -> None:
        """Write the first round of `reduce_to_owners`. Call `sum`, and nothing else, in between: it waits for all."""
        assert not self.offered, "a reduction has been offered already"
        self.offered = self._offered(parts, 0) if any(part.numel() for part in parts) else []

    def reduce_to_owners(self, parts: Sequence[Tensor]) -> None:
        """Add the others' values of this worker's own part to it; `parts` are flat, by owner."""
        mine = parts[self.rank]
        room = self._room(mine)
        for start in range(0, max(part.numel() for part in parts), room):
            windows, self.offered = self.offered, []
            if not windows:
                windows = self._offered(parts, start)
                self.meeting.wait()
            here = mine[start : start + room]
            for rank, window in enumerate(windows):
                if rank != self.rank:
                    here += window[self.rank, : here.numel()]

    def deal(self, parts: Tensor) -> Tensor:
        """Row i of `parts` [world, N] goes to rank i; returns the rows for this one, by rank."""
        assert not self.offered, "its windows would be written again"
        received, room = torch.empty_like(parts), self._room(parts)
        for start in range(0, parts.shape[1], room):
            windows = self._offered(list(parts), start)
            self.meeting.wait()
            for rank, window in enumerate(windows):
                here = received[rank, start : start + room]
                here.copy_(parts[rank, start : start + room] if rank == self.rank else window[self.rank, : here.numel()])
        return received

    def _room(self, part: Tensor) -> int:
        """Values per owner that fit in a round."""
        return WINDOW // self.world // part.element_size()

    def _offered(self, parts: Sequence[Tensor], start: int) -> list[Tensor]:
        """Write the values that others own, from `start` on; returns the round's windows [owner, room] by rank."""
        room = self._room(parts[0])
        windows = [window.view(self.world, room) for window in self.large.next(parts[0].dtype, self.world * room)]
        for owner, part in enumerate(parts):
            if owner != self.rank:
                _put(part[start : start + room], windows[self.rank][owner])
        return windows

    def gather(self, parts: Sequence[Tensor]) -> None:
        """Receive the others' parts; `parts` are flat, by owner."""
        assert not self.offered, "its windows would be written again"
        room = WINDOW // parts[0].element_size()
        for start in range(0, max(part.numel() for part in parts), room):
            windows = self.large.next(parts[0].dtype, room)
            _put(parts[self.rank][start : start + room], windows[self.rank])
            self.meeting.wait()
            for owner, part in enumerate(parts):
                if owner != self.rank:
                    there = part[start : start + room]
                    there.copy_(windows[owner][: there.numel()])


class Windows:
    """The windows of one kind, by turn and by rank."""

    def __init__(self, of: Sequence[Sequence[Tensor]]):
        self.of, self.turn = of, 0

    def next(self, dtype: torch.dtype, count: int) -> list[Tensor]:
        """Begin a round; returns its windows by rank, as `count` values each."""
        self.turn = 1 - self.turn
        return [window[: count * dtype.itemsize].view(dtype) for window in self.of[self.turn]]


def _put(values: Tensor, window: Tensor) -> None:
    window[: values.numel()] = values


def open_exchange(rank: int, world: int, share: Callable[[Any], list[Any]], silence_s: float) -> Exchange | None:
    """Open an exchange of all workers; None unless all are on one machine and can map each other's memory.

    `share` returns every worker's value, in rank order; what it raises, if a worker is gone, is passed on. `silence_s` is the
    longest wait for a worker, in seconds.
    """
    others = [other for other in range(world) if other != rank]
    meeting, agreed = None, False
    with ExitStack() as opening:
        own = _made(others, opening)
        # Tell the others where this worker's region and pipes are, and open theirs.
        offers = share(own and own.offer())
        regions = [own.region if own and other == rank else _opened(offer) for other, offer in enumerate(offers)]
        # Workers whose memory opened are processes of this machine, with the same process numbers.
        ends = None if None in regions else open_ends([offers[other][2][str(rank)] for other in others])
        opening.callback(close_all, ends or [])
        if own and ends is not None:
            with suppress(OSError):
                meeting = Meeting([own.pipes[other][0] for other in others], ends, silence_s)
        # Use the exchange only if it opened for all.
        try:
            agreed = all(share(meeting is not None))
        finally:
            if meeting and not agreed:
                meeting.close()
    return Exchange(rank, [region for region in regions if region], meeting) if meeting and agreed else None


@dataclass(frozen=True)
class _Own:
    """What a worker offers to the others: its region, and a pipe (read end, write end) from each of them, by rank."""

    file: int
    region: mmap.mmap
    pipes: dict[int, tuple[int, int]]
    mark: str

    def offer(self) -> list[Any]:
        """[path of the region, its mark, path of the write end by rank]"""
        folder = f"/proc/{os.getpid()}/fd"
        return [f"{folder}/{self.file}", self.mark, {str(rank): f"{folder}/{end}" for rank, (_, end) in self.pipes.items()}]


def _made(others: list[int], opening: ExitStack) -> _Own | None:
    """Make a region and pipes, whose descriptors close with `opening`; None if the system cannot."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        file = os.memfd_create("foundray")
        opening.callback(os.close, file)
        os.posix_fallocate(file, 0, REGION)  # otherwise a later write without memory would kill the process
        region, pipes = _mapped(file), {}
        for other in others:
            pipes[other] = os.pipe()
            opening.callback(close_all, list(pipes[other]))
    except OSError:
        return None
    mark = secrets.token_hex(MARK // 2)
    region[:MARK] = mark.encode()
    return _Own(file, region, pipes, mark)


def _mapped(file: int) -> mmap.mmap:
    return mmap.mmap(file, REGION)


def _opened(offer: list[Any] | None) -> mmap.mmap | None:
    """Map another process's region; None if it is on another machine, or in another container."""
    if offer is None:
        return None
    path, mark, _ = offer
    try:
        found = Path(path).stat()
        if found.st_size != REGION or not stat.S_ISREG(found.st_mode):
            return None  # another process's file, which might react to being opened
        file = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        region = _mapped(file)
    except (OSError, ValueError):  # another kind of file, or a shorter one
        return None
    finally:
        os.close(file)
    return region if region[:MARK] == mark.encode() else None
