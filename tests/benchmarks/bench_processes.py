"""CPU of every process of a run, per step and per second: `make bench-processes`.

A small run of 768 characters per step, by default with the workers and threads that a spec without `scale` gets. All processes
that the command starts are measured from step `--from` on, for `--steps` steps: starts and ends do not count. A process that
starts in between counts from its start, and one that ends counts until it was last seen.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml
from tests.benchmarks.small_runs import SMALL, Train, machine, prepare, spec_of, standard_library

from foundray.testing.specs import write_spec

WORKER = "ray::Worker"
AFTER = 60
"""Steps after the last one that counts, so that the run does not end before we see it."""


def role(command: list[str]) -> str:
    """A process's role, from its command line: Ray's workers and agents show their class there, its daemons a file's name."""
    first = command[0]
    if named := re.match(r"(ray::\w+)", first):
        return named[1]
    names = [Path(part).name for part in command]
    if "foundray" in names[:2]:
        return "driver"
    return next((name for name in names if name.endswith(".py")), names[0])


@dataclass
class Usage:
    """CPU seconds per process, for a process and its descendants."""

    root: psutil.Process
    roles: dict[int, str] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)

    def look(self) -> None:
        try:
            processes = [self.root, *self.root.children(recursive=True)]
        except psutil.Error:  # the command has ended
            return
        for process in processes:
            try:
                with process.oneshot():
                    times, command = process.cpu_times(), process.cmdline()
            except psutil.Error:  # it has ended
                continue
            if command:
                self.roles[process.pid] = role(command)
                self.seconds[process.pid] = times.user + times.system


def watch(train: Train, first: int, count: int) -> tuple[Counter[str], Counter[str], int, float]:
    """CPU seconds and processes by role, and the steps and seconds between two samples."""
    usage = Usage(psutil.Process(train.process.pid))
    start: tuple[int, float, dict[int, float]] | None = None
    while train.process.poll() is None:
        steps = train.steps()
        if steps >= first:
            usage.look()
            now = train.steps(), time.monotonic(), dict(usage.seconds)
            if start is None:
                start = now
            elif steps >= first + count:
                break
        time.sleep(1.0 if start else 0.2)
    if start is None or now[0] <= start[0]:
        raise RuntimeError(f"{train.run} ended before its steps could be watched")
    used: Counter[str] = Counter()
    for pid, seconds in now[2].items():
        used[usage.roles[pid]] += seconds - start[2].get(pid, 0.0)
    return used, Counter(usage.roles.values()), now[0] - start[0], now[1] - start[1]


def show(used: Counter[str], processes: Counter[str], steps: int, seconds: float) -> None:
    print(f"{steps} steps in {seconds:.1f} s, {1e3 * seconds / steps:.1f} ms each\n")
    print(f"{'process':44}{'number':>8}{'ms per step':>13}{'ms per second':>15}")
    others = sum(used.values()) - used[WORKER]
    rows = [*used.most_common(), ("all but the workers", others), ("all", sum(used.values()))]
    for name, cpu in rows:
        print(f"{name:44}{processes.get(name, ''):>8}{1e3 * cpu / steps:13.2f}{1e3 * cpu / seconds:15.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", type=int, default=100, dest="first", help="the step from which on it counts (%(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="that count (%(default)s)")
    parser.add_argument("--scale", type=yaml.safe_load, metavar="YAML", help="the spec's `scale` section (none)")
    options = parser.parse_args()
    scale: dict[str, Any] | None = options.scale
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        text = standard_library(at / "text.txt")
        spec = write_spec(at, spec_of(SMALL, text, at / "runs", options.first + options.steps + AFTER, scale=scale))
        prepare(spec)
        train = Train.start(spec, "watched")
        measured = watch(train, options.first, options.steps)
        print(f"{machine()}\n{SMALL}; {train.wait().workers}; scale: {json.dumps(scale)}")
        show(*measured)


if __name__ == "__main__":
    main()
