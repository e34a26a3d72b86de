"""Where the protocol stands: before a command, and while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from foundray.runs.checkpoints import Checkpoint
from foundray.runs.lineage import Lineage
from foundray.training.rollback import RollBack


class Stage(StrEnum):
    GATHERING = "gathering"
    """There is no group; too few workers are ready."""
    HALTING = "halting"
    """Workers were asked to stop what is under way."""
    HANDING_OVER = "handing over"
    """Workers that leave copy their state."""
    OPENING = "opening"
    """The feeder opens a generation of leases, and the first worker a place to meet."""
    COMPUTING = "computing"
    """A group was ordered to join, and computes."""
    ENDED = "ended"
    """The run is finished, stopped or given up."""


@dataclass(frozen=True)
class History:
    """What the run has recorded and stored before this command."""

    lineage: Lineage = ()
    roll_backs: tuple[RollBack, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    """The complete ones, newest first."""
    rechecked: int = 0
    """The last step that a recheck has passed."""
