"""Forms of the records in a run's events.jsonl and metrics.jsonl, and the traits of each kind of event."""

from __future__ import annotations

from foundray.records.schema import checkpoints, commands, workers
from foundray.records.schema.line import Event
from foundray.records.schema.step import MEASURES, Step
from foundray.records.traits import Trait

__all__ = ["EVENTS", "MEASURES", "Step", "kinds"]

EVENTS: dict[str, type[Event]] = {
    "command": commands.Command,
    "places": workers.Places,
    "places_lost": workers.PlacesLost,
    "member_ready": workers.MemberReady,
    "member_lost": workers.MemberLost,
    "member_left": workers.MemberLeft,
    "initialised": commands.Initialised,
    "branched": commands.Branched,
    "extended": commands.Extended,
    "workers_started": workers.WorkersStarted,
    "evaluated": commands.Evaluated,
    "checkpoint": checkpoints.Checkpoint,
    "checkpoint_late": checkpoints.CheckpointLate,
    "checkpoint_failed": checkpoints.CheckpointFailed,
    "prune_failed": checkpoints.PruneFailed,
    "checkpoint_skipped": checkpoints.CheckpointSkipped,
    "group_broken": workers.GroupBroken,
    "group_not_formed": workers.GroupNotFormed,
    "too_few": workers.TooFew,
    "waiting": workers.Waiting,
    "rolled_back": workers.RolledBack,
    "left_out": workers.LeftOut,
    "undone_elsewhere": workers.UndoneElsewhere,
    "recheck_skipped": workers.RecheckSkipped,
    "unlike": workers.Unlike,
    "stopped": commands.Stopped,
    "failed": commands.Failed,
    "finished": commands.Finished,
}
"""Forms by the value of their field `event`."""


def kinds(trait: Trait) -> tuple[str, ...]:
    """Return the kinds of events that have any of these traits, in the order of `EVENTS`."""
    return tuple(kind for kind, form in EVENTS.items() if form.traits & trait)
