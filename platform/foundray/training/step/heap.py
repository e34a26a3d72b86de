"""Memory that a worker keeps. Each step needs as much as the one before; by default the C library returns it in between."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""`mallopt`'s numbers of the settings (glibc)."""
SETTINGS = {TRIM_THRESHOLD: 2**30, TOP_PAD: 2**24, MMAP_THRESHOLD: 2**25}
"""In bytes: free memory kept at the end of a heap, growth of a heap, and the smallest allocation with its own pages."""


def keep_memory() -> bool:
    """Ask the C library not to return memory that the next step needs: fresh pages cost up to a twentieth of a step.

    Returns whether all settings were accepted; a C library other than glibc has none, and stays as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(number, size) == 1 for number, size in SETTINGS.items())
