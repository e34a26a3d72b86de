"""From the command to its first step and its end, for runs of 12 small steps: `make bench-start`.

Medians over several commands, in turn with one worker and with two. Times are seconds since the command started, as a user sees
them. CPU seconds are summed over all processes of a kind, and sampled a few times per second, so the last tenths of a process
that ends are missed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

import psutil
from tests.benchmarks.bench_processes import Usage
from tests.benchmarks.small_runs import FOUNDRAY, Record

from foundray.testing.specs import small_spec, write_spec

TURNS = 5
LOOK_SECONDS = 0.2
KINDS = {
    "default_worker.py": "started ahead, unused", "ray::Worker": "worker", "_Keeper": "Ray Train",
    "TrainController": "Ray Train", "RayTrainWorker": "Ray Train",
    "PlacementGroupCleaner": "Ray Train", "SynchronizationActor": "Ray Train",
    "AutoscalingRequester": "Ray Train", "_Feeder": "feeder", "_Board": "board", "gcs_server": "Ray's daemons",
    "raylet": "Ray's daemons", "dashboard": "Ray's daemons", "agent": "Ray's daemons", "monitor": "Ray's daemons",
}  # fmt: skip
"""Kinds of processes, by a part of their roles; others, such as the driver and Ray Data's own, keep their role."""


def command(spec: Path, storage: Path, workers: int, name: str) -> tuple[dict[str, float], Counter[str]]:
    """Run one command. Returns its times, and CPU seconds by kind of process."""
    began, given = time.monotonic(), time.time()
    printed: dict[str, float] = {}
    arguments = ["train", str(spec), "--set", f"scale={{workers: {workers}}}", "--set", f"name={name}"]
    process = subprocess.Popen([FOUNDRAY, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def listen() -> None:
        assert process.stdout
        for line in process.stdout:
            printed[line.strip()] = time.monotonic() - began

    listener = threading.Thread(target=listen)
    listener.start()
    spent = look_at(process)
    ended = time.monotonic() - began
    listener.join()
    if process.returncode:
        raise SystemExit("\n".join(printed))
    record = Record.read(storage / name, given, given + ended)
    at = {event["event"]: event["time"] - given for event in record.events}
    times = {
        "command is read": next(seconds for line, seconds in printed.items() if line.startswith("starting Ray")),
        "data are prepared": next(seconds for line, seconds in printed.items() if "worker" in line),
        "worker is ready": at["member_ready"],
        "first step": record.metrics[0]["time"] - given,
        "last step": record.metrics[-1]["time"] - given,
        "evaluated": at["evaluated"],
        "finished": at["finished"],
        "end": ended,
    }
    return times, spent


def look_at(process: subprocess.Popen[str]) -> Counter[str]:
    """CPU seconds of a command's processes, by kind, until it ends."""
    usage = Usage(psutil.Process(process.pid))
    while process.poll() is None:
        usage.look()
        time.sleep(LOOK_SECONDS)
    spent: Counter[str] = Counter()
    for pid, seconds in usage.seconds.items():
        spent[kind_of(usage.roles[pid])] += seconds  # type: ignore[assignment]
    spent["processes"] = len(usage.seconds)
    return spent


def kind_of(role: str) -> str:
    return next((kind for part, kind in KINDS.items() if part in role), role)


def main() -> None:
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else TURNS
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "text.txt"
        source.write_text("It was a bright cold day in April, and the clocks were striking thirteen. " * 6000)
        storage = Path(folder) / "runs"
        spec = write_spec(Path(folder), small_spec(source, storage))
        times: dict[int, list[dict[str, float]]] = defaultdict(list)
        spent: dict[int, list[Counter[str]]] = defaultdict(list)
        for turn in range(turns):
            for workers in (1, 2):
                one, cpu = command(spec, storage, workers, f"run-{workers}-{turn}")
                times[workers].append(one)
                spent[workers].append(cpu)
        for workers, rows in times.items():
            print(f"\n{workers} worker{'s' if workers > 1 else ''}, median of {len(rows)} (least to most), seconds")
            for name in rows[0]:
                values = [row[name] for row in rows]
                print(f"  {name:24}{statistics.median(values):6.2f}  ({min(values):.2f} to {max(values):.2f})")
            kinds = sorted({kind for row in spent[workers] for kind in row})
            medians = {kind: statistics.median(row[kind] for row in spent[workers]) for kind in kinds}
            whole = statistics.median(row.total() - row["processes"] for row in spent[workers])
            print(f"  CPU seconds: {whole:.1f} in {medians.pop('processes'):.0f} processes")
            for kind in sorted(medians, key=medians.__getitem__, reverse=True):
                print(f"    {kind:38}{medians[kind]:6.2f}")
    sys.stdout.flush()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
