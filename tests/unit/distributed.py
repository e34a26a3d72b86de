"""Runs a function in several processes that share a gloo process group, without Ray: for the collectives' own sake."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any


def run(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`function(group, *arguments)` in each of `world` processes; gives their results in rank order."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_enter, args=(rank, world, f"{folder}/store", results, function, arguments))
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        answers = dict(results.get(timeout=120) for _ in processes)
        for process in processes:
            process.join(timeout=30)
    failures = [answer for answer in answers.values() if isinstance(answer, str) and answer.startswith("Traceback")]
    assert not failures, failures[0]
    return [answers[rank] for rank in range(world)]


def _enter(rank: int, world: int, store: str, results: Any, function: Callable[..., Any], arguments: Any) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch
    import torch.distributed as dist

    from foundray.training.group import Group

    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
        )
        results.put((rank, function(Group(rank, world), *arguments)))
        dist.barrier()
        dist.destroy_process_group()
    except Exception:
        results.put((rank, traceback.format_exc()))
