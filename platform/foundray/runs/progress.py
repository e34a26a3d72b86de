"""A run's progress, updated record by record; memory grows by a few numbers per step."""

from __future__ import annotations

import math
from array import array
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from foundray.records.takers import counts
from foundray.runs.goodput import ENDS, Account, goodput_of
from foundray.runs.lineage import undoes_after
from foundray.runs.restarts import Restarts

RECENT = 200
"""Most steps that speed, pace and shares are averaged over."""
EVENTS = 1000
"""Number of last events kept."""

Record = dict[str, Any]


class Progress:
    def __init__(self) -> None:
        self.doing = ""
        """What the last command is doing, or the kind of event that ended it; empty without records."""
        self.step: Record = {}
        """The last step's record; empty before the first."""
        self.done = 0
        """Steps done in the run's current state."""
        self.losses = array("d")
        """Loss of each step, as last computed."""
        self.recent: deque[Record] = deque(maxlen=RECENT)
        """The last steps of the current group."""
        self.repeated = 0
        """Number of repeated steps."""
        self.restarts = Restarts()
        self.worlds: list[tuple[int, int]] = []
        """(step, workers) of each group whose size differs from the one before."""
        self.evaluated: list[Record] = []
        """Events of the evaluations that no cut has undone."""
        self.cuts = set[str]()
        """Ids of the cuts so far: one may be recorded twice."""
        self.checkpoint: Record = {}
        """Event of the last complete checkpoint."""
        self.events: deque[Record] = deque(maxlen=EVENTS)
        self.account = Account()

    def add(self, records: Iterable[Record]) -> None:
        """Take events and steps, in order of time."""
        for record in records:
            self.account.add(record)
            if "event" in record:
                self._add_event(record)
            else:
                self._add_step(record)

    def _add_event(self, event: Record) -> None:
        if (to := undoes_after(event)) is not None and event.get("cut") not in self.cuts:
            self.cuts.add(event.get("cut", ""))
            self.evaluated = [one for one in self.evaluated if one["step"] <= to]
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
                if self.checkpoint.get("step", 0) > event.get("to", math.inf):  # undone by the roll-back, and deleted
                    self.checkpoint = {}
            case "branched":
                self.doing, self.done = "branched", event["step"]
            case "extended":
                self.doing, self.done = "extended", event["to"]
                if self.checkpoint.get("step", 0) > event["to"]:
                    self.checkpoint = {}
            case "waiting":
                self.doing = "waiting for workers"
            case "evaluated":
                self.evaluated.append(event)
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
        """Throughput while stepping."""
        seconds = sum(step["step_s"] for step in self.recent)
        return len(self.recent) * self.step["tokens"] / self.step["step"] / seconds if seconds else None

    def seconds_left(self, steps: int) -> float | None:
        """Seconds until step `steps` at the pace of the last ones; None without a pace."""
        if len(self.recent) < 2:
            return None
        span = self.recent[-1]["time"] - self.recent[0]["time"]
        return float(span / (len(self.recent) - 1) * (steps - self.done))

    @property
    def seconds(self) -> float:
        """Total wall time while a command was running the run."""
        return sum(self.account.parts().values())

    @property
    def goodput(self) -> float | None:
        """Share of that time spent on steps that count."""
        return goodput_of(self.account.parts()) if self.done else None

    @property
    def shares(self) -> dict[int, float]:
        """Share of the micro-batches per rank."""
        taken: Counter[int] = sum((counts(step["takers"]) for step in self.recent), Counter())
        return {rank: count / taken.total() for rank, count in sorted(taken.items())}
