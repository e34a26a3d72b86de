"""A model of 0.8 billion parameters on one machine: `make bench-large`, about a quarter of an hour, and 20 GB of memory.

Four workers of one team hold it, with 8-bit AdamW and exact sums. They take two steps and write a checkpoint, which is exported
and loaded by transformers. Each worker's peak is all that the process holds, Python and libraries included. Of the export,
pages of files, which the system may drop at any time, are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from tests.benchmarks.bench_processes import WORKER, role
from tests.benchmarks.small_runs import FOUNDRAY, machine, standard_library

from foundray.testing.specs import write_spec

GIB = 2**30
LOADED = """
import sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
with torch.no_grad():
    logits = model(**tokenizer("def main", return_tensors="pt")).logits
print(f"{type(model).__name__}, {model.num_parameters():,} parameters, logits {tuple(logits.shape)}, "
      f"{'finite' if logits.isfinite().all() else 'not finite'}")
"""


def spec_of(folder: Path, text: Path, workers: int) -> dict[str, Any]:
    return {
        "name": "large",
        "data": {
            "sources": [{"path": str(text), "format": "text"}], "holdout": 0.001,
            "tokenizer": {"kind": "bpe", "vocab_size": 4096},
        },
        "objective": {"kind": "next_token"},
        "model": {"width": 1536, "depth": 28, "heads": 12, "hidden": 4096, "context": 64},
        "optimizer": {"kind": "adamw8bit", "lr": 1e-4, "weight_decay": 0.1, "clip": 1.0},
        "schedule": {"kind": "wsd", "warmup": 0.0, "decay": 0.0},
        "train": {
            "steps": 2, "micro_batches": workers, "micro_batch_size": 1, "evaluate_every": 2, "checkpoint_every": 2,
            "recompute": "full",
        },
        "evaluate": {"text_tokens": 0},
        "fault": {"mirror_every": "never"},
        "scale": {"workers": workers, "team": workers, "resources": {"CPU": 0.5}},
        "storage": str(folder / "runs"),
    }  # fmt: skip


def watched(command: list[str], look: Callable[[psutil.Process], None]) -> float:
    """Run a command, looking at its processes all the time; returns its seconds."""
    began, process = time.monotonic(), psutil.Popen(command)
    while process.poll() is None:
        try:
            for one in [process, *process.children(recursive=True)]:
                look(one)
        except psutil.Error:  # it has ended
            pass
        time.sleep(0.05)
    assert process.returncode == 0, f"{command} ended with {process.returncode}"
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory(dir=Path.home()) as name:
        folder = Path(name)
        spec = write_spec(folder, spec_of(folder, standard_library(folder / "text.txt"), options.workers))
        # Train, and watch the workers.
        peaks: dict[int, int] = {}

        def look(process: psutil.Process) -> None:
            try:
                if role(process.cmdline() or [""]) == WORKER:
                    peaks[process.pid] = max(peaks.get(process.pid, 0), process.memory_info().rss)
            except psutil.Error:
                pass

        seconds = watched([FOUNDRAY, "train", str(spec)], look)
        run = folder / "runs" / "large"
        steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        print(f"trained: {seconds:.0f} s in all, steps of {', '.join(str(step['step_s']) for step in steps)} s")
        print("peak of each worker: " + ", ".join(f"{peak / GIB:.2f}" for peak in sorted(peaks.values())) + " GiB", flush=True)
        # Export, and watch what is its own; then load it.
        own = [0]

        def of_export(process: psutil.Process) -> None:
            with contextlib.suppress(psutil.Error):
                own[0] = max(own[0], process.memory_info().rss - process.memory_info().shared)

        seconds = watched([FOUNDRAY, "export", str(run), str(folder / "out")], of_export)
        files = {file.name: round(file.stat().st_size / 1e9, 2) for file in (folder / "out").glob("*.safetensors")}
        print(f"exported: {seconds:.0f} s, {own[0] / GIB:.2f} GiB of its own; {files} GB", flush=True)
        subprocess.run([sys.executable, "-c", LOADED, str(folder / "out")], check=True)


if __name__ == "__main__":
    main()
