"""A worker keeps its memory from step to step."""

from __future__ import annotations

import os
import subprocess
import sys

FAULTS = """
import resource, torch
from foundray.training.step.heap import keep_memory
torch.set_num_threads(1)
def step():
    tensors = [torch.ones(2**20) for _ in range(12)]
def faults():
    for _ in range(5):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults())
assert keep_memory()
print(faults())
"""
"""Fresh pages that five equal steps of 48 MiB get from the system, as it is and with memory kept."""


def test_memory_that_is_kept_comes_without_fresh_pages() -> None:
    # By default, what the C library keeps by itself depends on where the system places the heap: here it keeps little.
    little = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | little)
    as_it_is, kept = map(int, done.stdout.split())
    pages = 5 * 48 * 2**20 // 4096
    assert kept < pages / 20
    assert as_it_is > pages / 2, "else there would be nothing to ask for"
