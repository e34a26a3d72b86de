"""The collectives of a step, over a process group that can be left and formed again."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from foundray.host.devices import traits
from foundray.training.collectives.exchange import Exchange, open_exchange
from foundray.training.collectives.meeting import LostConnection

GATHERING = timedelta(seconds=15)
"""Longest wait for each other when workers form a group: once for all to come, and once to connect them."""
SILENCE = timedelta(minutes=10)
"""Longest wait of a collective for a worker that neither answers nor closes its connection."""


def listen(address: str, port: int = 0) -> dist.TCPStore:
    """A store at which a group can gather, on this node; port 0 means any that is free.

    It listens before anyone is sent there: a worker that comes too early tries again only after up to a second.
    """
    return dist.TCPStore(address, port, is_master=True, wait_for_workers=False, timeout=GATHERING)


class Group:
    """The workers of one generation. For a single worker, every collective does nothing."""

    def __init__(self, rank: int = 0, world: int = 1, device: torch.device | None = None):
        self.rank, self.world, self.device = rank, world, device or torch.device("cpu")
        self.aborted = False
        self.sockets: set[tuple[int, int]] = set()
        """(descriptor, inode) of the connections to the others."""
        self.exchange: Exchange | None = None
        """Shared memory, if all workers are on one machine."""
        self.process_group: dist.ProcessGroup | None = None
        """None for torch's default one."""
        self.under_way = 0
        """Collectives that have begun, and that nobody has finished."""
        self.parts: tuple[Group, ...] = ()
        """The groups that this one was split into."""

    @staticmethod
    def gather_at(
        rendezvous: tuple[str, int] | None,
        rank: int,
        world: int,
        device: torch.device,
        store: dist.TCPStore | None = None,
        overtaken: Callable[[], bool] = lambda: False,
    ) -> Group:
        """Form a group with the workers at the same rendezvous address, where rank 0 has the `store` that `listen` gave.

        Raises RuntimeError if one does not come, or as soon as `overtaken` tells that none is waited for any more.
        """
        if rendezvous is not None:
            if store is not None and store.port != rendezvous[1]:
                raise LostConnection("a later group gathers elsewhere")
            before = _sockets()
            store = store or dist.TCPStore(*rendezvous, is_master=False, timeout=GATHERING)
            _await_all(store, world, overtaken)
            backend = _backend(store, rank, world, device)
            dist.distributed_c10d._world.group_count = 0  # torch counts failed attempts in a name that all workers must share
            dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=GATHERING)
            group = Group(rank, world, device)
            group.meet()  # connects all to all while the short limit holds
            if traits(device).in_main_memory:
                group.exchange = open_exchange(rank, world, group.share, SILENCE.total_seconds())
            dist.distributed_c10d._set_pg_timeout(SILENCE)
            group.sockets = _sockets() - before
            return group
        return Group(rank, world, device)

    def split(self, size: int) -> tuple[Group, Group]:
        """Split into teams of `size` neighbouring ranks: this worker's team, and the workers at its place in every team.

        Every worker calls this. Raises ValueError if the teams would not be of one size.
        """
        if self.world % size:
            raise ValueError(f"{self.world} workers are not teams of {size}")
        teams = [range(start, start + size) for start in range(0, self.world, size)]
        across = [range(place, self.world, size) for place in range(size)]
        before = _sockets()
        found = [self._part(ranks) for ranks in (*teams, *across)]  # all workers in the same order, as torch wants it
        self.parts = team, other = tuple(part for part in found if part)
        self.sockets |= _sockets() - before
        return team, other

    def _part(self, ranks: range) -> Group | None:
        """A group of some ranks; None if this worker is not among them."""
        process_group = None
        if 1 < len(ranks) < self.world:
            process_group = dist.new_group(list(ranks), timeout=GATHERING)
        if self.rank not in ranks:
            return None
        part = Group(ranks.index(self.rank), len(ranks), self.device)
        if len(ranks) > 1:
            part.process_group = process_group
            part.meet()
            dist.distributed_c10d._set_pg_timeout(SILENCE, process_group)
            if traits(self.device).in_main_memory and self.exchange:
                part.exchange = open_exchange(part.rank, part.world, part.share, SILENCE.total_seconds())
        return part

    def leave(self) -> None:
        """Close the connections: the others' collectives with this worker fail."""
        if any(group.under_way for group in (self, *self.parts)):
            self.abort()  # otherwise closing would wait for what nobody finishes
        for part in self.parts:
            if part.exchange:
                part.exchange.meeting.close()
                part.exchange = None
        if exchange := self.exchange:
            self.exchange = None  # its memory is free again
            exchange.meeting.close()
        if dist.is_initialized():
            with contextlib.suppress(Exception):  # it may be broken in any way
                dist.destroy_process_group()

    def abort(self) -> None:
        """Make the collective in progress fail, even if it waits for a silent worker; called from another thread.

        Gloo's own abort does nothing (torch 2.13), so its connections are cut.
        """
        for group in (self, *self.parts):
            group.aborted = True
            if exchange := group.exchange:  # the worker's own thread may leave meanwhile
                exchange.meeting.abort()
        if self.world > 1 and dist.is_initialized():
            for group in (self, *self.parts):
                with contextlib.suppress(Exception):
                    (group.process_group or dist.distributed_c10d._get_default_group()).abort()
            _cut(self.sockets)

    def check(self) -> None:
        """Raise RuntimeError if the group was aborted or a connection closed; for workers that wait elsewhere."""
        if self.aborted or any(map(_hung_up, self.sockets)):
            raise LostConnection("the group is broken")

    def meet(self) -> None:
        """Wait until all workers have called this."""
        self.sum(torch.zeros(1, device=self.device))

    def offer(self, total: Tensor, bounds: Sequence[int]) -> None:
        """Begin `reduce_to_owners` early. `sum`, and nothing else, must come in between: it is its first wait."""
        if self.exchange:
            self.exchange.offer(_parts(total, bounds))

    def reduce_to_owners(self, total: Tensor, bounds: Sequence[int]) -> Tensor:
        """Sum over the workers; returns the elements that this worker owns: [bounds[rank], bounds[rank + 1])."""
        parts = _parts(total, bounds)
        if self.world == 1:
            return parts[0]
        if self.exchange:
            self.exchange.reduce_to_owners(parts)
        elif dist.get_backend(self.process_group) == "gloo":
            self.sum(total[: bounds[-1]])  # gloo's reduce-scatter takes five times as long as its all-reduce
        elif _equal(parts):
            dist.reduce_scatter_tensor(parts[self.rank], total[: bounds[-1]], group=self.process_group)
        else:
            dist.reduce_scatter(parts[self.rank], parts, group=self.process_group)
        self._check_whole()
        return parts[self.rank]

    def gather(self, whole: Tensor, bounds: Sequence[int]) -> None:
        """Receive every owner's elements; each worker has its own in place."""
        parts = _parts(whole, bounds)
        if self.world == 1:
            return
        if self.exchange:
            self.exchange.gather(parts)
            self._check_whole()
        elif _equal(parts):
            with _in_reach(whole[: bounds[-1]]) as there:
                dist.all_gather_into_tensor(there, _parts(there, bounds)[self.rank], group=self.process_group)
            self._check_whole()
        else:
            for owner, part in enumerate(parts):
                if part.numel():
                    self.broadcast(part, owner)

    def begin_gather(self, whole: Tensor, bounds: Sequence[int]) -> Callable[[], None]:
        """Begin to `gather` equal parts beside other work, for a group that `works_beside`; returns what finishes it.

        Until then, `whole` keeps its memory, even if the group breaks: it may be written to.
        """
        parts = _parts(whole, bounds)
        self.under_way += 1
        work = dist.all_gather_into_tensor(whole[: bounds[-1]], parts[self.rank], group=self.process_group, async_op=True)

        def finish() -> None:
            work.wait()
            self.under_way -= 1
            self._check_whole()

        return finish

    @property
    def works_beside(self) -> bool:
        """Whether collectives of the device's values can go on beside a computation."""
        if self.world == 1 or self.exchange:
            return False
        return traits(self.device).in_main_memory or dist.get_backend(self.process_group) != "gloo"

    def deal(self, parts: Tensor) -> Tensor:
        """Send row i of `parts` [world, N] to worker i; returns the rows that the workers sent to this one, by rank."""
        if self.world == 1:
            return parts
        if self.exchange:
            received = self.exchange.deal(parts)
        else:
            parts = parts.contiguous()
            received = torch.empty_like(parts)
            with _in_reach(parts) as there, _in_reach(received) as arriving:
                dist.all_to_all_single(arriving, there, group=self.process_group)
        self._check_whole()
        return received

    def broadcast(self, values: Tensor, holder: int) -> Tensor:
        if self.world > 1:
            with _in_reach(values) as there:
                dist.broadcast(there, group=self.process_group, group_src=holder)
            self._check_whole()
        return values

    def sum(self, values: Tensor) -> Tensor:
        if self.world == 1:
            return values
        if self.exchange:
            self.exchange.sum(values)
        else:
            with _in_reach(values) as there:
                dist.all_reduce(there, group=self.process_group)
        self._check_whole()
        return values

    def share(self, value: Any) -> list[Any]:
        """Every worker's value, in rank order; for small values that are rarely sent.

        They travel as JSON, so tuples arrive as lists: nothing that arrives is ever unpickled.
        """
        # Each worker's text has its own range of a buffer of zeros, so a sum concatenates them.
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = torch.zeros(self.world, dtype=torch.int64, device=self.device)
        sizes[self.rank] = len(text)
        ends = self.sum(sizes).cumsum(0).tolist()
        everything = torch.zeros(ends[-1], dtype=torch.uint8, device=self.device)
        everything[ends[self.rank] - len(text) : ends[self.rank]] = text.to(self.device)
        received = self.sum(everything).cpu().numpy().tobytes()
        return [json.loads(received[start:end]) for start, end in pairwise([0, *ends])]

    def share_rows(self, mine: Mapping[int, Tensor]) -> Tensor:
        """All workers' rows [N, D] in fp32, given in parts with unique numbers, in the order of the numbers."""
        shapes = self.share({number: rows.shape for number, rows in mine.items()})
        sizes = {int(number): size for shape_of in shapes for number, size in shape_of.items()}
        parts = [torch.zeros(*sizes[number], device=self.device) for number in sorted(sizes)]
        for number, part in zip(sorted(sizes), parts, strict=True):
            if number in mine:
                part.copy_(mine[number])
        return self.sum(torch.cat(parts))  # the others' are zeros here, so the sum is exact

    def _check_whole(self) -> None:
        """Raise RuntimeError if the last collective was aborted: NCCL's then returns as if it had succeeded."""
        if self.aborted:
            raise LostConnection("the group was aborted")


def _await_all(store: dist.Store, world: int, overtaken: Callable[[], bool]) -> None:
    """Wait until all workers are at the store. Raises LostConnection if one does not come in time, or none has to.

    Torch's own waits cannot be interrupted: after the loss of one worker, the others would wait for it until the limit.
    """
    if store.add("here", 1) == world:
        store.set("all here", "")
    until = time.monotonic() + GATHERING.total_seconds()
    while not store.check(["all here"]):
        if overtaken():
            raise LostConnection("another group is formed")
        if time.monotonic() > until:
            raise LostConnection("a worker of the group did not come")
        time.sleep(max(0.002, world / 5_000))  # at most 5,000 looks per second


def _backend(store: dist.Store, rank: int, world: int, device: torch.device) -> str:
    """NCCL if each worker has its own GPU; otherwise gloo, since NCCL refuses two workers on one GPU."""
    kind = traits(device)
    if kind.collectives == "gloo":
        return "gloo"
    # A failed collective then raises in the thread that waits for it; by default NCCL's watchdog ends the process.
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    store.set(f"gpu {rank}", kind.uuid(device))
    gpus = [store.get(f"gpu {other}") for other in range(world)]
    return kind.collectives if len(set(gpus)) == world else "gloo"


@contextlib.contextmanager
def _in_reach(values: Tensor) -> Iterator[Tensor]:
    """The values where the group's collectives can reach them: for gloo in main memory, and copied back afterwards."""
    if traits(values.device).in_main_memory or dist.get_backend() != "gloo":
        yield values
        return
    there = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values)
    yield there
    values.copy_(there)


def _sockets() -> set[tuple[int, int]]:
    """(descriptor, inode) of this process's sockets."""
    found = set()
    for entry in Path("/proc/self/fd").glob("*"):
        with contextlib.suppress(OSError):  # closed meanwhile
            status = os.fstat(int(entry.name))
            if stat.S_ISSOCK(status.st_mode):
                found.add((int(entry.name), status.st_ino))
    return found


def _cut(sockets: set[tuple[int, int]]) -> None:
    """Shut down connections; a listening socket, which has no peer, is left alone."""
    for descriptor, inode in sockets:
        with contextlib.suppress(OSError):
            if os.fstat(descriptor).st_ino == inode:
                with socket.socket(fileno=os.dup(descriptor)) as connection:
                    connection.getpeername()
                    connection.shutdown(socket.SHUT_RDWR)


def _hung_up(known: tuple[int, int]) -> bool:
    """Whether the other end of a connection is gone, or this one was closed because of that."""
    descriptor, inode = known
    try:
        if os.fstat(descriptor).st_ino != inode:
            return True
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return False
            return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _parts(whole: Tensor, bounds: Sequence[int]) -> list[Tensor]:
    return [whole[start:stop] for start, stop in pairwise(bounds)]


def _equal(parts: Sequence[Tensor]) -> bool:
    return len({part.numel() for part in parts}) == 1
