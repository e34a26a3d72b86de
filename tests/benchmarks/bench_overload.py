"""Two runs at once on the same cores, and one alone: `make bench-overload`.

Both are commands with their own Ray, with 768 characters per step. With a fair half of the machine, a step takes twice as long
as alone. Anything above that is lost because the two get in each other's way. Only steps during which both were training
count.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

import yaml
from tests.benchmarks.small_runs import SETTLED_SECONDS, SMALL, Record, Train, machine, prepare, spec_of, standard_library

from foundray.testing.specs import write_spec

FAIR = 2.0


def training(record: Record) -> tuple[float, float]:
    """(start, end) of the steps that count, in seconds since the epoch."""
    return record.metrics[0]["time"] + SETTLED_SECONDS, record.metrics[-1]["time"]


def together(spec: Path, turn: int) -> tuple[float, float]:
    """Seconds per step of two runs that are started together, while both are training."""
    trains = [Train.start(spec, f"both-{turn}-{name}") for name in "ab"]
    first, second = [train.wait() for train in trains]
    (one_began, one_ended), (other_began, other_ended) = training(first), training(second)
    since, until = max(one_began, other_began), min(one_ended, other_ended)
    return first.step_seconds(since, until), second.step_seconds(since, until)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3, help="of one alone, then two at once (%(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="of each run (%(default)s)")
    parser.add_argument("--scale", type=yaml.safe_load, metavar="YAML", help="the spec's `scale` section (none)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        text = standard_library(at / "text.txt")
        spec = write_spec(at, spec_of(SMALL, text, at / "runs", options.steps, scale=options.scale))
        prepare(spec)
        print(machine())
        ratios = []
        for turn in range(options.turns):
            record = Train.start(spec, f"alone-{turn}").wait()
            alone = record.step_seconds()
            print(f"{record.workers}: alone {1e3 * alone:.1f} ms per step", flush=True)
            both = together(spec, turn)
            ratios.append(sum(both) / len(both) / alone)
            print(f"two at once {' and '.join(f'{1e3 * one:.1f}' for one in both)} ms: {ratios[-1]:.2f}x", flush=True)
    print(f"two at once: {median(ratios):.2f}x the time of one alone, {median(ratios) / FAIR:.2f}x a fair half")


if __name__ == "__main__":
    main()
