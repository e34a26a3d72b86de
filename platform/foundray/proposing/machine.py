"""What this machine computes per second, found in a second: a GPU by its name, a CPU by matrix products."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from foundray.host.machine import physical_cores
from foundray.model.flops import known_peak
from foundray.wording.words import plural

PRODUCT = 512
"""Side of the square matrices that are multiplied."""
SECONDS = 0.25
"""Seconds of the processor for measuring."""
CPU_SHARE, GPU_SHARE = 0.35, 0.25
"""Share of the peak that training of small models reaches. Judgement, after runs of the examples."""


@dataclass(frozen=True)
class Machine:
    cores: int
    gpus: int
    flops: float
    """FLOP/s that training is expected to reach, on all of it."""
    words: str
    """For people."""


def measure() -> Machine:
    """Look at this machine. Imports torch only if there is an NVIDIA GPU."""
    cores = physical_cores()
    if shutil.which("nvidia-smi"):
        import torch

        if count := torch.cuda.device_count():
            name = torch.cuda.get_device_name(0)
            peak = known_peak(name) or 50e12  # a card that is not in the table: as a small one
            return Machine(cores, count, count * peak * GPU_SHARE, f"{count} x {name}")
    return Machine(cores, 0, cores * _product() * CPU_SHARE, plural(cores, "core"))


def _product() -> float:
    """FLOP/s of matrix products in fp32 on one core, by the time of the processor, so that other processes do not count."""
    a, products = np.random.default_rng(0).random((PRODUCT, PRODUCT), np.float32), 0
    with threadpool_limits(1):
        a @ a
        start = time.process_time()
        while (took := time.process_time() - start) < SECONDS:
            a @ a
            products += 1
    return float(products * 2 * PRODUCT**3 / took)
