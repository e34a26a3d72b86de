"""A group's workers, and the reaction of the others if one falls silent."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from foundray.testing.groups import process_context, run_group
from foundray.training.collectives.group import Group, listen
from foundray.training.collectives.meeting import LostConnection

WORLD = 3


def survivors(target: Callable[..., None], world: int) -> dict[int, float]:
    """Outputs of all but one of a group's processes, by rank; no process is left behind."""
    context = process_context()
    results, ports = context.Queue(), context.Queue()
    processes = [context.Process(target=target, args=(rank, ports, results)) for rank in range(world)]
    for process in processes:
        process.start()
    try:
        return dict(results.get(timeout=60) for _ in range(world - 1))
    finally:
        for process in processes:
            process.kill()
            process.join()


def rendezvous(rank: int, ports: Any, world: int) -> tuple[dist.TCPStore | None, tuple[str, int]]:
    """Rank 0 listens at a free port and sends it to the others."""
    if rank:
        return None, ("127.0.0.1", ports.get(timeout=60))
    store = listen("127.0.0.1")
    for _ in range(world - 1):
        ports.put(store.port)
    return store, ("127.0.0.1", store.port)


def gathered(rank: int, ports: Any, world: int) -> Group:
    store, address = rendezvous(rank, ports, world)
    return Group.gather_at(address, rank, world, torch.device("cpu"), store)


def worker(rank: int, ports: Any, results: Any) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    group = gathered(rank, ports, WORLD)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    began = time.monotonic()
    threading.Timer(0.5, group.abort).start()
    values = torch.ones(1000)
    try:
        while True:
            group.sum(values)
    except RuntimeError:
        group.leave()
        results.put((rank, time.monotonic() - began))


def test_a_collective_can_be_interrupted_while_it_waits_for_a_silent_worker() -> None:
    answers = survivors(worker, WORLD)
    assert sorted(answers) == [0, 2]
    assert all(seconds < 10 for seconds in answers.values())


def partner(rank: int, ports: Any, results: Any) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    group = gathered(rank, ports, 2)
    for _ in range(20):
        group.sum(torch.ones(1000))
        group.check()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    began = time.monotonic()
    try:
        while time.monotonic() - began < 20:
            group.check()
            time.sleep(0.05)
    except RuntimeError:
        results.put((rank, time.monotonic() - began))


def test_a_worker_that_waits_for_something_else_notices_a_lost_worker() -> None:
    ((rank, seconds),) = survivors(partner, 2).items()
    assert (rank, seconds < 5) == (0, True)


def comrade(rank: int, ports: Any, results: Any) -> None:
    """Rank 1 joins the first meeting and stays silent; the second meeting succeeds."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    from foundray.training.collectives import group as module

    module.GATHERING = timedelta(seconds=2)
    store, address = rendezvous(rank, ports, 2)
    if store is None:
        dist.TCPStore(*address, 2, is_master=False)
    else:
        with pytest.raises(RuntimeError):
            Group.gather_at(address, rank, 2, torch.device("cpu"), store)
    module.GATHERING = timedelta(seconds=15)
    group = gathered(rank, ports, 2)
    results.put((rank, float(group.sum(torch.ones(1)))))


def test_a_worker_that_failed_to_form_a_group_can_form_one_with_a_new_worker() -> None:
    assert list(survivors(comrade, 2).values()) == [2]


def test_nobody_waits_for_a_worker_that_was_lost_on_its_way() -> None:
    """The coordinator, which knows, forms another group; this one's limit is 15 s."""
    store, asked = listen("127.0.0.1"), iter([False, False, True])
    with pytest.raises(LostConnection, match="another group is formed"):
        Group.gather_at(("127.0.0.1", store.port), 0, 2, torch.device("cpu"), store, lambda: next(asked))


def shared(group: Group, values: list[Any]) -> tuple[list[Any], Any, list[list[float]]]:
    """Values that a group shares, in a process that cannot unpickle anything."""
    import pickle

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was unpickled")

    honest = pickle.loads, pickle.load, pickle.Unpickler, dist.distributed_c10d._unpickler
    pickle.loads = pickle.load = pickle.Unpickler = dist.distributed_c10d._unpickler = refuse  # type: ignore[assignment]
    try:
        shared = group.share(values[group.rank])
        rows = group.share_rows({group.rank: torch.full((group.rank + 1, 2), float(group.rank))} if group.rank else {})
        try:
            group.share(Path("nothing that JSON has"))
        except TypeError as error:
            refused = type(error).__name__
    finally:
        pickle.loads, pickle.load, pickle.Unpickler, dist.distributed_c10d._unpickler = honest  # type: ignore[assignment]
    return shared, refused, rows.tolist()


def test_what_a_group_shares_is_never_unpickled() -> None:
    values = [{"kind": "AVX2", "losses": [[1, 0.1], [2, 2.5e-300]]}, None, "d\u00e9j\u00e0 vu"]
    rows = [[1.0, 1.0]] * 2 + [[2.0, 2.0]] * 3
    assert run_group(3, shared, values) == [(values, "TypeError", rows)] * 3
    assert Group().share((1, "a")) == [[1, "a"]]


def leaver(rank: int, ports: Any, results: Any) -> None:
    """Rank 0 leaves while it gathers, and rank 1 does not answer."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    group = gathered(rank, ports, 2)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    group.exchange = None
    group.begin_gather(torch.zeros(512), [0, 256, 512])
    began = time.monotonic()
    group.leave()
    results.put((rank, time.monotonic() - began))


def test_nobody_waits_for_what_has_begun_when_it_leaves() -> None:
    ((rank, seconds),) = survivors(leaver, 2).items()
    assert (rank, seconds < 10) == (0, True)
