"""The memory of GPUs by name."""

from __future__ import annotations

MEMORY = {
    "A100": 80e9,
    "A100 40GB": 40e9,
    "A10G": 24e9,
    "A40": 48e9,
    "B200": 180e9,
    "H100": 80e9,
    "H100 NVL": 94e9,
    "H100 PCIe": 80e9,
    "H200": 141e9,
    "L4": 24e9,
    "L40S": 48e9,
    "RTX 3090": 24e9,
    "RTX 4090": 24e9,
    "RTX 5090": 32e9,
    "RTX A6000": 48e9,
}
"""Bytes, from NVIDIA's data sheets; bf16 peaks are in `model/flops.py`."""
FULL = 0.95
"""Share of a GPU's memory that may be planned with."""
BY_RAY = {**MEMORY, "A100": MEMORY["A100 40GB"], "A100-40G": MEMORY["A100 40GB"], "A100-80G": MEMORY["A100"]}
"""The same by Ray's names. Ray calls both kinds of A100 by one name, which counts as the smaller kind."""
