"""Replay one history, or look for failing ones.

python -m tests.simulation SEED [--teams] [--mutant NAME] [--only 0 2]   print what happens in a history
python -m tests.simulation --search COUNT [--from SEED]                  run many; print the failing ones, each made short
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

from tests.simulation.histories import of_seed, of_teams, run
from tests.simulation.mutants import MUTANTS
from tests.simulation.search import failure, search
from tests.simulation.shrink import shrunk
from tests.simulation.trace import traced
from tests.simulation.world import World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?")
    parser.add_argument("--teams", action="store_true", help="by teams of two, on two kinds of devices")
    parser.add_argument("--mutant", choices=MUTANTS, help="a broken protocol")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the faults that happen")
    parser.add_argument("--search", type=int, metavar="COUNT")
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="SEED")
    options = parser.parse_args()
    if options.search and not options.mutant:
        return _search(options.first, options.search)
    history, world = (of_teams if options.teams else of_seed)(options.seed), MUTANTS.get(options.mutant, World)
    if options.only is not None:
        history = replace(history, faults=tuple(history.faults[index] for index in options.only))
    run(history, traced(world))
    print("all holds")
    return 0


def _search(first: int, count: int) -> int:
    began, failing = time.perf_counter(), 0
    for seed, problem in search(first, count):
        failing += 1
        whole = of_seed(seed)
        short = shrunk(whole, lambda history: bool(failure(history)))
        kept = " ".join(str(index) for index, fault in enumerate(whole.faults) if fault in short.faults)
        print(f"{problem}\n    python -m tests.simulation {seed} --only {kept}")
    print(f"{count:,} histories in {time.perf_counter() - began:.0f} s, {failing} failing")
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
