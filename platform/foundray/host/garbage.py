"""Python's garbage collector, which finds nothing while modules are imported, and looks again and again at what they made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

MODERATE = 10_000, 20, 20
"""Objects made before a collection, and younger collections before an older one; Python's own are 700, 10 and 10."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect nothing during the block, and never look again at the objects that are there at its end."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def collect_less() -> None:
    """Collect less often in this process: a command makes few cycles, and most of its objects are its modules'."""
    gc.set_threshold(*MODERATE)
