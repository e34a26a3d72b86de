"""A function of the caller's that is told what happens, while it happens."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

Told = Callable[[dict[str, Any]], None]
CLOSE_SECONDS = 10.0
"""Limit for the end of a run to wait for the function."""


class Listener:
    """Calls the function in a thread of its own, in order: it can be slow, or fail, without a cost to the run."""

    def __init__(self, function: Told, report: Callable[[str], None]):
        self.function, self.report = function, report
        self.waiting: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.has_failed = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def take(self, record: dict[str, Any]) -> None:
        """Tell the function of a record later; a step's has the `event` `step`."""
        self.waiting.put({"event": "step", **record})

    def _run(self) -> None:
        while (record := self.waiting.get()) is not None:
            try:
                self.function(record)
            except Exception as error:  # of any kind: it is the caller's
                if not self.has_failed:
                    self.has_failed = True
                    why = f"{type(error).__name__}: {error}"
                    self.report(f"on_event failed at `{record['event']}`, and the run continues: {why}")

    def close(self) -> None:
        """Wait until the function has been told everything, but not for ever."""
        self.waiting.put(None)
        self.thread.join(CLOSE_SECONDS)
