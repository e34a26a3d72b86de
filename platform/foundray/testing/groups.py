"""A function on every worker of a group: processes that share a gloo process group, without Ray.

The processes are started once and serve all calls, and are forked from one that has imported what they need, since most of a
start is imports.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

SECONDS = 150
"""Without a result for this long, a group hangs."""
FURTHER_SECONDS = 2
"""Wait for the tracebacks of other ranks after one has failed: a judgement."""
THREADS = 1
"""Of each process: as many as a run's worker has that asks for nothing. Sums that are cut for another number round differently,
so compute with as many where you compare with a group (`torch.set_num_threads`)."""
IMPORTED = ["torch", "torch.distributed", "foundray.testing.trainers"]
"""Imported before processes are forked: modules that start no thread and touch no GPU."""
_processes: list[tuple[Any, Connection]] = []


def process_context() -> Any:
    """Context of `multiprocessing` whose processes start with torch imported, in the environment of the first of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


def run_group(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Run `function(group, *arguments)` in each of `world` processes; gives the results in rank order.

    The function, its arguments and its result are pickled, so the function must be at the top level of a module.
    Raises `RuntimeError`, with the tracebacks, if it fails or a process ends in some of them, and `TimeoutError` if it hangs.
    """
    while len(_processes) < world:
        _processes.append(_started())
    with tempfile.TemporaryDirectory() as folder:
        try:
            for rank, (_, connection) in enumerate(_processes[:world]):
                with contextlib.suppress(BrokenPipeError):  # `_outcome` says that the process has ended
                    connection.send((rank, world, f"{folder}/store", function, arguments))
            return _results(_processes[:world])
        except BaseException:
            _end()  # the others may wait for the one that failed
            raise


def _results(processes: list[tuple[Any, Connection]]) -> list[Any]:
    connections = [connection for _, connection in processes]
    results: dict[int, Any] = {}
    failures: dict[int, str] = {}
    while missing := [rank for rank in range(len(connections)) if rank not in results | failures]:
        # A rank that fails soon makes others fail, perhaps before its own traceback is here.
        ready = wait([connections[rank] for rank in missing], FURTHER_SECONDS if failures else SECONDS)
        if not ready:
            break
        for rank in missing:
            if connections[rank] in ready:
                succeeded, value = _outcome(*processes[rank])
                (results if succeeded else failures)[rank] = value
    if failures:
        raise RuntimeError("\n".join(f"rank {rank} {text}" for rank, text in failures.items()))
    if missing:
        raise TimeoutError(f"no result from ranks {missing} after {SECONDS} s")
    return [results[rank] for rank in range(len(connections))]


def _outcome(process: Any, connection: Connection) -> tuple[bool, Any]:
    """Whether a rank succeeded, and its result, or what happened to it."""
    try:
        outcome: tuple[bool, Any] = connection.recv()
    except (EOFError, ConnectionError):
        process.join()
        return False, f"ended with status {process.exitcode}"
    return outcome


def _started() -> tuple[Any, Connection]:
    context = process_context()
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

    torch.set_num_threads(THREADS)
    while True:
        try:
            message = connection.recv_bytes()
        except EOFError:
            return
        try:
            connection.send((True, _in_group(*pickle.loads(message))))
        except Exception:
            connection.send((False, f"failed:\n{traceback.format_exc()}"))


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
