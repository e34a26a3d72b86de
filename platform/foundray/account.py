"""Where the time of a run went, from its record."""

from __future__ import annotations

from typing import Any

PARTS = ("stepping", "data_wait", "copying", "evaluating", "repeated", "recovery", "starting", "idle")


class Account:
    """Seconds of wall time by part; they sum to the time in which a command was running the run.

    `stepping` is steps that count, without waiting for data; `data_wait`; `copying` the state for checkpoints and mirrors;
    `evaluating`; `repeated` steps, done again after a fault; `recovery` from a fault to the next step; `starting` from a
    command to its first step; `idle` is the rest. Goodput is the share of `stepping`.
    """

    def __init__(self) -> None:
        self.spent = dict.fromkeys(PARTS, 0.0)
        self.counted: dict[int, float] = {}
        """Seconds of the last time that each step was done."""
        self.began: float | None = None
        """When the last command did."""
        self.seen = 0.0
        """The time of the last record."""
        self.waiting: tuple[str, float] | None = None
        """For what no step is done, and since when."""

    def add(self, record: dict[str, Any]) -> None:
        """An event or a step; they come in order of time."""
        now, name = record["time"], record.get("event")
        if name == "command":
            self._close()
            self.began, self.waiting = now, ("starting", now)
        elif name in ("group_broken", "rolled_back") and self.waiting is None:
            self.waiting = ("recovery", now)
        elif name == "evaluated":
            self._spend("evaluating", record["seconds"])
        elif name is None:
            self._add_step(record)
        self.seen = max(now, self.seen)

    def _add_step(self, record: dict[str, Any]) -> None:
        step, wait = record["step"], record["data_wait_s"]
        if self.waiting:
            self._spend(self.waiting[0], max(0.0, record["time"] - record["step_s"] - self.waiting[1]))
            self.waiting = None
        self._spend("data_wait", wait)
        self._spend("copying", record["copy_s"])
        self._spend("stepping", record["step_s"] - wait)
        if step in self.counted:  # the time before was in vain
            self.spent["stepping"] -= self.counted[step]
            self.spent["repeated"] += self.counted[step]
        self.counted[step] = record["step_s"] - wait

    def _spend(self, part: str, seconds: float) -> None:
        self.spent[part] += seconds
        self.spent["idle"] -= seconds

    def _close(self) -> None:
        """What a command had no other name for was idle."""
        if self.began is not None:
            self.spent["idle"] += self.seen - self.began
            self.began = self.seen

    def parts(self) -> dict[str, float]:
        """Until the last record."""
        self._close()
        return {part: round(seconds, 3) for part, seconds in self.spent.items()}


def account(events: list[dict[str, Any]], metrics: list[dict[str, Any]]) -> dict[str, float]:
    """The account of a whole record: see `Account`."""
    whole = Account()
    for record in sorted([*events, *metrics], key=lambda record: record["time"]):
        whole.add(record)
    return whole.parts()
