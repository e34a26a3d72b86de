"""How a run goes, from its records as they come: each is looked at once, and a step leaves a few numbers behind."""

from __future__ import annotations

import math
from array import array
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from foundray.records.takers import counts
from foundray.runs.goodput import ENDS, Account
from foundray.runs.restarts import Restarts

RECENT = 200
"""Steps that speed, pace and shares are taken over, at most."""
EVENTS = 1000
"""The last events that are remembered."""

Record = dict[str, Any]


class Progress:
    def __init__(self) -> None:
        self.doing = ""
        """What the last command is or was doing; the kind of the event that ended it; nothing where there is no record."""
        self.step: Record = {}
        """The last step's record, once there is one."""
        self.done = 0
        """Steps done in the state that the run is in."""
        self.losses = array("d")
        """Of each step, the last time it was done."""
        self.recent: deque[Record] = deque(maxlen=RECENT)
        """The last steps of the present group of workers."""
        self.repeated = 0
        """Steps done again."""
        self.restarts = Restarts()
        self.worlds: list[tuple[int, int]] = []
        """(step, workers) wherever a group was not as large as the one before."""
        self.evaluations: list[tuple[int, float]] = []
        """(step, validation loss)"""
        self.evaluation: Record = {}
        """The last one's event."""
        self.checkpoint: Record = {}
        """The last complete one's event."""
        self.events: deque[Record] = deque(maxlen=EVENTS)
        self.account = Account()

    def add(self, records: Iterable[Record]) -> None:
        """Events and steps, in order of time."""
        for record in records:
            self.account.add(record)
            if "event" in record:
                self._add_event(record)
            else:
                self._add_step(record)

    def _add_event(self, event: Record) -> None:
        self.events.append(event)
        self.restarts.add(event)
        match event["event"]:
            case "command":
                self.doing = "starting"
            case "workers_started":
                self.recent.clear()
                self.done = event["step"]
                if not self.worlds or self.worlds[-1][1] != event["workers"]:
                    self.worlds.append((event["step"], event["workers"]))
            case "group_broken" | "rolled_back" | "too_few":
                self.doing = "regrouping"
                self.done = event.get("to", self.done)
                if self.checkpoint.get("step", 0) > event.get("to", math.inf):  # it was undone, and is deleted
                    self.checkpoint = {}
            case "waiting":
                self.doing = "waiting for workers"
            case "evaluated":
                self.evaluation = event
                self.evaluations.append((event["step"], event["val_loss"]))
            case "checkpoint":
                self.checkpoint = event
            case kind if kind in ENDS:
                self.doing = event["event"]

    def _add_step(self, step: Record) -> None:
        self.step, self.doing, self.done = step, "training", step["step"]
        self.recent.append(step)
        at = step["step"] - 1
        self.repeated += at < len(self.losses)
        self.losses.extend([math.nan] * (at + 1 - len(self.losses)))
        self.losses[at] = step["loss"]

    @property
    def tokens_per_s(self) -> float | None:
        """While stepping."""
        seconds = sum(step["step_s"] for step in self.recent)
        return len(self.recent) * self.step["tokens"] / self.step["step"] / seconds if seconds else None

    def seconds_left(self, steps: int) -> float | None:
        """Of a run of so many steps, at the pace of the last ones; None where there is none to go by."""
        if len(self.recent) < 2:
            return None
        span = self.recent[-1]["time"] - self.recent[0]["time"]
        return float(span / (len(self.recent) - 1) * (steps - self.done))

    @property
    def seconds(self) -> float:
        """Wall time while a command was running the run, all told."""
        return sum(self.account.parts().values())

    @property
    def goodput(self) -> float | None:
        """Share of that time spent on steps that count."""
        return self.account.spent["stepping"] / self.seconds if self.done and self.seconds else None

    @property
    def shares(self) -> dict[int, float]:
        """Of the micro-batches, by the rank of the worker that took them."""
        taken: Counter[int] = sum((counts(step["takers"]) for step in self.recent), Counter())
        return {rank: count / taken.total() for rank, count in sorted(taken.items())}
