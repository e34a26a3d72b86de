"""A worker keeps its memory from step to step."""

from __future__ import annotations

import os
import subprocess
import sys

FAULTS = """
import resource, sys, torch
from foundray.training.step.heap import keep_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_memory()
def step():
    tensors = [torch.ones(2**20) for _ in range(12)]
for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Fresh pages that five equal steps of 48 MiB get from the system, if the C library keeps little memory by itself.

    By default, that amount depends on where the system places the heap, and differs between processes.
    """
    little = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", FAULTS, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | little)
    return int(done.stdout)


def test_memory_that_is_kept_comes_without_fresh_pages() -> None:
    pages = 5 * 48 * 2**20 // 4096
    assert faults("keep") < pages / 20
    assert faults("as it is") > pages / 2, "else there would be nothing to ask for"
