"""Events of checkpoints."""

from __future__ import annotations

from typing import Literal

from foundray.records.schema.line import Event
from foundray.records.traits import Trait


class Checkpoint(Event):
    """A checkpoint is complete."""

    traits = Trait.ROUTINE
    event: Literal["checkpoint"]
    step: int
    """Steps done."""
    bytes: int
    """Size of all its shards."""
    seconds: float
    """Seconds of writing, in parallel with training."""


class CheckpointLate(Event):
    """A checkpoint was not made."""

    traits = Trait.STORAGE
    event: Literal["checkpoint_late"]
    step: int
    """Steps done."""
    reason: str
    """Why."""


class CheckpointFailed(Event):
    """A checkpoint could not be written."""

    traits = Trait.PRINTED | Trait.FAULT | Trait.FAULT_MARK | Trait.STORAGE
    event: Literal["checkpoint_failed"]
    step: int
    """Steps done."""
    reason: str
    """Why."""


class PruneFailed(Event):
    """Old checkpoints could not be deleted; this is tried again after the next one."""

    traits = Trait.PRINTED | Trait.FAULT_MARK | Trait.STORAGE
    event: Literal["prune_failed"]
    step: int
    """Steps done in the checkpoint that replaces them."""
    reason: str
    """Why."""


class CheckpointSkipped(Event):
    """A checkpoint could not be used."""

    traits = Trait.PRINTED | Trait.FAULT | Trait.FAULT_MARK | Trait.STORAGE
    event: Literal["checkpoint_skipped"]
    step: int
    """Steps done in the checkpoint used instead."""
    reason: str
    """Which checkpoint it was, and why."""
    going_on_from: int
    """The same as `step`."""
