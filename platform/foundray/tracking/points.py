"""A run's log records as points for a tracker, each step once."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Any

from foundray.contract.tracking import Point, Position
from foundray.records.schema import kinds
from foundray.records.traits import Trait
from foundray.records.values import evaluation_values, step_values
from foundray.runs.extension import EXTENDED
from foundray.runs.lineage import undoes_after
from foundray.wording.sentences import sentence

PRINTED = kinds(Trait.PRINTED)
Record = dict[str, Any]


class Points:
    """Reads both logs from their beginning, and gives what has not been sent.

    A step that was computed again after a fault has the same bits, so its first record is sent. After a roll-back past a loss
    spike it has others: with `guard.roll_back`, steps that a spike could still undo are held back.
    """

    def __init__(self, sent: Position, roll_back: int | None, loss_unit: str = "nats per token"):
        """`roll_back` is the spec's: steps between the states to which a spike returns; `loss_unit` the objective's."""
        self.sent, self.roll_back, self.loss_unit = sent, roll_back, loss_unit
        self.settled = 0.0 if roll_back else math.inf
        """No spike undoes steps up to this one."""
        self.steps: deque[Record] = deque()
        """Held back."""
        self.events: deque[tuple[int, Record]] = deque()
        """Events held back, with the length of their log up to each."""
        self.lines = 0
        """Events read."""
        self.ready: list[Point] = []

    def add_steps(self, records: Iterable[Record]) -> None:
        """Take new records of metrics.jsonl, in order."""
        for record in records:
            step = record["step"]
            while self.steps and self.steps[-1]["step"] >= step:  # undone
                self.steps.pop()
            self.steps.append(record)
            if self.roll_back:  # a spike at a state that is kept returns to the one before
                self.settled = (step - record["spike"]) // self.roll_back * self.roll_back
            self._release()

    def add_events(self, records: Iterable[Record]) -> None:
        """Take new records of events.jsonl, in order."""
        for record in records:
            self.lines += 1
            if self.roll_back and (to := undoes_after(record)) is not None:
                self.events = deque(one for one in self.events if not _is_evaluation_after(one[1], to))
            self.events.append((self.lines, record))
            self._release()

    def finish(self) -> None:
        """Hold nothing back: the run is finished."""
        self.settled = math.inf
        self._release()

    def taken(self) -> list[Point]:
        """The points that are ready; they are forgotten here."""
        ready, self.ready = self.ready, []
        return ready

    def _release(self) -> None:
        while self.steps and self.steps[0]["step"] <= self.settled:
            record = self.steps.popleft()
            if record["step"] > self.sent.step:
                self.sent = Position(record["step"], self.sent.events)
                self.ready.append(Point(record["step"], record["time"], step_values(record), "", self.sent))
        while self.events and not _is_evaluation_after(self.events[0][1], self.settled):
            line, record = self.events.popleft()
            if line > self.sent.events:
                self._add_event(line, record)

    def _add_event(self, line: int, record: Record) -> None:
        values = evaluation_values(record) if record["event"] == "evaluated" else {}
        note = sentence(record, self.loss_unit) if record["event"] in PRINTED else ""
        if record["event"] == EXTENDED and record["to"] < (last := min(record["step"], self.sent.step)):
            note = f"extended; steps {record['to'] + 1:,} to {last:,} are computed again, and are not sent again"
        if values or note:
            self.sent = Position(self.sent.step, line)
            self.ready.append(Point(record.get("step", self.sent.step), record["time"], values, note, self.sent))


def _is_evaluation_after(record: Record, step: float) -> bool:
    return bool(record["event"] == "evaluated" and record["step"] > step)
