"""Memory that a member keeps. Every step needs as much as the one before; by default the C library gives it back in between."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""`mallopt`'s numbers for what follows (glibc)."""
SETTINGS = {TRIM_THRESHOLD: 2**30, TOP_PAD: 2**24, MMAP_THRESHOLD: 2**25}
"""Bytes: free ones at the end of a heap that are kept, those it grows by, and the least that has pages of its own."""


def keep_memory() -> bool:
    """Ask the C library not to return memory that the next step takes again: fresh pages cost up to a twentieth of a step.

    Gives whether it took all settings; another one than glibc has none, and goes on as it does.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(number, size) == 1 for number, size in SETTINGS.items())
