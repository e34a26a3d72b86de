"""Account of a run's time, from its logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foundray.records.schema import kinds
from foundray.records.traits import Trait

PARTS = ("stepping", "data_wait", "copying", "evaluating", "repeated", "recovery", "starting", "idle")
ENDS = kinds(Trait.ENDS)
"""Kinds of events after which a command ends."""
RECOVERS = kinds(Trait.RECOVERS)
BESIDE_DRIVER = kinds(Trait.BESIDE_DRIVER)
REACH = 2**16
"""Steps that a run may go back over: durations of this many last steps are kept."""


class Account:
    """Seconds of wall time by part; they sum to the time in which a command was running the run.

    `stepping` is steps that count, without waiting for data; `data_wait`; `copying` the state for checkpoints and replicas;
    `evaluating`; `repeated` steps after a fault; `recovery` from a fault to the next step; `starting` from a
    command to its first step; `idle` is the rest. Goodput is the share of `stepping`.

    A command's time is from its `command` to its `stopped`, `failed` or `finished`; if it was killed, to its last record.
    """

    def __init__(self) -> None:
        self.spent = dict.fromkeys(PARTS[:-1], 0.0)
        self.counted: dict[int, float] = {}
        """Seconds of each step that counts until it is repeated."""
        self.waiting: tuple[str, float] | None = None
        """(part, time) since when no step has been done."""
        self.seen: float | None = None
        self.running = True
        """Whether a command is running, as far as recorded."""
        self.elapsed = 0.0

    def add(self, record: dict[str, Any]) -> None:
        """Take the next record, in order of time."""
        now, name = record["time"], record.get("event")
        if name in BESIDE_DRIVER:  # perhaps before the command that it belongs to
            return
        if name == "command":
            self._stop_waiting(self.seen or now)  # the command before was killed
            self.waiting = ("starting", now)
        elif not self.running:
            return  # a late record; no command is running
        else:
            self.elapsed += now - (now if self.seen is None else self.seen)
            if name in RECOVERS and self.waiting is None:
                self.waiting = ("recovery", now)
            elif name == "evaluated":
                self.spent["evaluating"] += record["seconds"]
            elif name in ENDS:
                self._stop_waiting(now)
            elif name is None:
                self._add_step(record, now)
        self.running, self.seen = name not in ENDS, now

    def _add_step(self, record: dict[str, Any], now: float) -> None:
        step, wait = record["step"], record["data_wait_s"]
        self._stop_waiting(now - record["step_s"])
        again = self.counted.pop(step, 0.0)
        self.counted[step] = record["step_s"] - wait
        if len(self.counted) > REACH:
            del self.counted[next(iter(self.counted))]
        for name, seconds in (
            ("stepping", self.counted[step] - again),
            ("repeated", again),
            ("data_wait", wait),
            ("copying", record["copy_s"]),
        ):
            self.spent[name] += seconds

    def _stop_waiting(self, now: float) -> None:
        if self.waiting:
            part, since = self.waiting
            self.spent[part] += max(0.0, now - since)
            self.waiting = None

    def pause(self) -> None:
        """Note that no command runs after the last record: it ended or was killed."""
        self._stop_waiting(self.seen or 0.0)
        self.running = False

    def parts(self, now: float | None = None) -> dict[str, float]:
        """Seconds by part, up to the last record; with `now`, a current wait counts until then."""
        spent, elapsed = dict(self.spent), self.elapsed
        if self.waiting and self.seen is not None and now is not None and now > self.seen:
            spent[self.waiting[0]] += now - self.waiting[1]
            elapsed += now - self.seen
        return {part: round(seconds, 3) for part, seconds in {**spent, "idle": elapsed - sum(spent.values())}.items()}


def goodput_of(parts: Mapping[str, float]) -> float | None:
    """Share of the time that was spent on steps that count; None if no time has passed, to the millisecond."""
    whole = sum(parts.values())
    return parts["stepping"] / whole if round(whole, 3) else None


def account(events: list[dict[str, Any]], metrics: list[dict[str, Any]]) -> dict[str, float]:
    """Account of complete logs: see `Account`."""
    whole = Account()
    for record in sorted([*events, *metrics], key=lambda record: record["time"]):
        whole.add(record)
    return whole.parts()
