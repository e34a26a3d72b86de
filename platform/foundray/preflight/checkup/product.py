"""A short matrix product on each accelerator of this machine, or on its CPU if it has none.

A program of its own, sent as text to a node and run by its Python, so that it leaves no memory behind and can be stopped.
Arguments: CPU threads, GPUs that Ray counts. Output: one JSON object.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

LONG_ENOUGH = 0.05
"""Seconds that a product should take, so that its launch does not count."""
LARGEST = 16384
TURNS = 5


def main(threads: int, gpus: int) -> None:
    import torch

    torch.set_num_threads(max(1, threads))
    seen = torch.cuda.device_count() if gpus else 0
    devices = [torch.device("cuda", index) for index in range(seen)] or ([] if gpus else [torch.device("cpu")])
    products = [product(torch, device) for device in devices]
    print(json.dumps({"cuda": torch.version.cuda if gpus else None, "devices": products}))


def product(torch: Any, device: Any) -> dict[str, Any]:
    """TFLOP/s of a square product (2 n^3 operations), median of TURNS; in bf16 on a GPU that has it, otherwise fp32."""
    on_gpu = device.type == "cuda"
    bf16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    found: dict[str, Any] = {
        "device": str(device),
        "kind": torch.cuda.get_device_name(device) if on_gpu else cpu_kind(torch.get_num_threads()),
        "dtype": "bf16" if bf16 else "fp32",
    }
    try:
        if on_gpu:
            free, total = torch.cuda.mem_get_info(device)
            found["memory"], found["memory_free"] = total, free
        size, seconds = 512, 0.0
        while True:
            a = torch.ones(size, size, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
            multiply(torch, a)
            seconds = multiply(torch, a)
            if seconds > LONG_ENOUGH or size == LARGEST:
                break
            size *= 2
        seconds = statistics.median(multiply(torch, a) for _ in range(TURNS))
        found["tflops"] = 2 * size**3 / seconds / 1e12
    except RuntimeError as error:  # a GPU that is full, or broken
        found["problem"] = str(error).splitlines()[0]
    return found


def multiply(torch: Any, a: Any) -> float:
    """Seconds of one product."""
    if a.is_cuda:
        torch.cuda.synchronize(a.device)
    start = time.perf_counter()
    a @ a
    if a.is_cuda:
        torch.cuda.synchronize(a.device)
    return time.perf_counter() - start


def cpu_kind(threads: int) -> str:
    name = "CPU"
    try:
        with open("/proc/cpuinfo") as lines:  # noqa: PTH123
            name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {threads} thread{'s' * (threads != 1)}"


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
