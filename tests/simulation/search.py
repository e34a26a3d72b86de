"""Runs many histories on all cores, and gathers those in which something does not hold."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator

from tests.simulation.clock import Broken
from tests.simulation.histories import History, of_seed, run
from tests.simulation.world import World

CHUNK = 250


def failure(history: History, world: type[World] = World) -> str:
    """What does not hold in a history; empty if all does."""
    try:
        run(history, world)
    except Broken as error:
        return str(error)
    except Exception as error:
        # A broken protocol may bring the simulation itself to fall, which shows nothing.
        return f"{type(error).__name__}: {error}" if world is World else ""
    return ""


def _failures(seeds: range) -> list[tuple[int, str]]:
    return [(seed, found) for seed in seeds if (found := failure(of_seed(seed)))]


def search(first: int, count: int, processes: int | None = None) -> Iterator[tuple[int, str]]:
    """(seed, what does not hold) of `count` histories from seed `first` on."""
    chunks = [range(start, min(start + CHUNK, first + count)) for start in range(first, first + count, CHUNK)]
    with multiprocessing.get_context("fork").Pool(processes or os.cpu_count()) as pool:
        for found in pool.imap_unordered(_failures, chunks):
            yield from found
