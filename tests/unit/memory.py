"""Memory that torch takes on a CPU: what its allocator gave and took back while a function ran."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import accumulate
from typing import Any

from torch.profiler import ProfilerActivity, profile


def allocated(function: Callable[[], Any]) -> tuple[int, int]:
    """Bytes of new tensors: those that the result holds, and the most at any time until it was there."""
    gc.collect()  # or what earlier tests left is freed meanwhile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = function()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = list(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))
    del result  # until here it has held what is counted
    return held[-1], max(held)
