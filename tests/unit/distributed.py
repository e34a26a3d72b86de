"""Run a function in several processes that share a gloo process group, without Ray, to test collectives alone.

The processes start once and serve all tests: most of a start is imports.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

from tests.conftest import THREADS

SECONDS = 150
_processes: list[tuple[Any, Connection]] = []


def run(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call `function(group, *arguments)` in each of `world` processes. Returns their results in rank order."""
    while len(_processes) < world:
        _processes.append(_started())
    with tempfile.TemporaryDirectory() as folder:
        connections = [connection for _, connection in _processes[:world]]
        for rank, connection in enumerate(connections):
            connection.send((rank, world, f"{folder}/store", function, arguments))
        answers: dict[int, Any] = {}
        try:
            while len(answers) < world:
                ready = wait([c for rank, c in enumerate(connections) if rank not in answers], SECONDS)
                assert ready, f"no answer from ranks {set(range(world)) - set(answers)}"
                for connection in ready:
                    answered, value = connection.recv()  # type: ignore[union-attr]
                    assert answered, value
                    answers[connections.index(connection)] = value  # type: ignore[arg-type]
        except BaseException:
            _end()  # the others may wait for the one that failed
            raise
    return [answers[rank] for rank in range(world)]


def _started() -> tuple[Any, Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    return process, ours


def _end() -> None:
    while _processes:
        process, _ = _processes.pop()
        process.kill()
        process.join()


def _serve(connection: Connection) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch

    torch.set_num_threads(THREADS)  # as in the tests' own process, with which these are compared
    while True:
        try:
            rank, world, store, function, arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send((True, _in_group(rank, world, store, function, arguments)))
        except Exception:
            connection.send((False, traceback.format_exc()))


def _in_group(rank: int, world: int, store: str, function: Callable[..., Any], arguments: Any) -> Any:
    import torch.distributed as dist

    from foundray.training.collectives.group import Group

    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=60))
    try:
        result = function(Group(rank, world), *arguments)
        dist.barrier()
    finally:
        dist.destroy_process_group()
    return result
