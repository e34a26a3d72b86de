"""Simulated time: calls in the order of their times, and of their making at equal times."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Broken(AssertionError):
    """What must always hold does not."""


class Clock:
    def __init__(self) -> None:
        self.now = 1.0
        self.calls: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.made = 0

    def after(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        self.made += 1
        heapq.heappush(self.calls, (self.now + seconds, self.made, call, arguments))

    def run(self, until: float, over: Callable[[], bool]) -> None:
        """Run until a time, or until it is `over`."""
        calls = self.calls
        while calls and calls[0][0] <= until and not over():
            self.now, _, call, arguments = heapq.heappop(calls)
            call(*arguments)
