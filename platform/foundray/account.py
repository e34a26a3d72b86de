"""Where the time of a run went, from its record."""

from __future__ import annotations

from typing import Any

PARTS = ("stepping", "data_wait", "copying", "evaluating", "repeated", "recovery", "starting", "idle")


def account(events: list[dict[str, Any]], metrics: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of wall time by part; they sum to the time in which a command was running the run.

    `stepping` is steps that count, without waiting for data; `data_wait`; `copying` the state for checkpoints and mirrors;
    `evaluating`; `repeated` steps, done again after a fault; `recovery` from a fault to the next step; `starting` from a
    command to its first step; `idle` is the rest. Goodput is the share of `stepping`.
    """
    parts = dict.fromkeys(PARTS, 0.0)
    counted = {record["step"]: id(record) for record in metrics}
    records = sorted([*events, *metrics], key=lambda record: record["time"])
    waiting: tuple[str, float] | None = None  # since when, and for what, no step is done
    began = seen = None
    for record in records:
        now, name = record["time"], record.get("event")
        if name == "command":
            parts["idle"] += seen - began if began is not None else 0.0
            began, waiting = now, ("starting", now)
        elif name in ("group_broken", "rolled_back") and waiting is None:
            waiting = ("recovery", now)
        elif name == "evaluated":
            parts["evaluating"] += record["seconds"]
            parts["idle"] -= record["seconds"]
        elif name is None:
            wait, copying, step = record["data_wait_s"], record["copy_s"], record["step_s"]
            spent = {"data_wait": wait, "copying": copying}
            spent["stepping" if counted[record["step"]] == id(record) else "repeated"] = step - wait
            if waiting:
                spent[waiting[0]] = max(0.0, now - step - waiting[1])
                waiting = None
            for part, seconds in spent.items():
                parts[part] += seconds
                parts["idle"] -= seconds
        seen = now
    parts["idle"] += seen - began if began is not None else 0.0
    return {part: round(seconds, 3) for part, seconds in parts.items()}
