"""Checks that exactly those steps are recorded as spikes whose losses are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foundray.inspection.auditing.groups import Placed
from foundray.spec import Spec


def judge_spikes(
    events: Sequence[Mapping[str, Any]], lines: Sequence[Placed], last: Mapping[int, Placed], spec: Spec
) -> list[str]:
    """Judge the losses of the steps that count (`last`) again, as the run did.

    A run that an earlier version resumed is not judged: its window was shorter afterwards. With roll-backs, no step that counts
    is a spike.
    """
    deviations = spec.guard.spike
    chain = [last[step] for step in sorted(last)]
    if deviations is None or spec.guard.roll_back:
        why = "guard.spike is not set" if deviations is None else "the run rolls back from spikes"
        return [f"step {line.step} is recorded as a spike, but {why}" for line in lines if line.record["spike"]]
    if _resumed_long_ago(events) or len(chain) != max(last, default=0):
        return []
    from foundray.training.step.guards import SpikeGuard  # imports torch

    guard, problems = SpikeGuard(deviations), []
    for line in chain:
        record = line.record
        spike = guard.is_spike(record["loss"])
        if spike != record["spike"]:
            how = "is recorded as a spike, but its loss is none" if record["spike"] else "is a spike, but not recorded as one"
            problems.append(f"step {line.step} {how}")
        if not record["spike"]:
            guard.add(line.step, record["loss"])
    return problems


def _resumed_long_ago(events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a group continued from storage under a version that kept neither the window nor node ids."""
    resumed = any(e["event"] == "workers_started" and e["step"] and e.get("state") == "storage" for e in events)
    return resumed and not all(e.get("node_id") for e in events if e["event"] == "member_ready")
