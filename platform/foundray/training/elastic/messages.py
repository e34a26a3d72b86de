"""What conductor and members say to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from foundray.data.stream.plan import StreamPlan
from foundray.training.checkpoints.written import ShardFile
from foundray.training.elastic.recovery import Source
from foundray.training.rollback import RollBack
from foundray.training.step.guards import Losses

KIND = ("hardware", "gradient", "torch", "bitsandbytes", "threads")
"""What equal bits depend on, by a word for it: a member's facts say what it has of each."""


@dataclass(frozen=True)
class Work:
    """What a member has to know of its run."""

    spec_json: str
    run: str
    """The run folder's URL."""
    plan: StreamPlan
    classes: int
    """Ids of the data are below this; 0 for values."""
    validation_samples: int
    feeder: Any
    board: Any


@dataclass(frozen=True)
class Order:
    """Take part in a group."""

    generation: int
    rank: int
    world: int
    rendezvous: tuple[str, int] | None
    """Address and port at which rank 0 gathers the group; None for a group of one."""
    source: Source | None
    """Where the state is, holders by rank; None for storage."""
    bounds: tuple[int, ...]
    """Where the workers' shards begin and end, in blocks."""
    mirror: Any
    """The member that mirrors this one's piece, if any."""
    mirror_s: float
    """Seconds between two mirrorings, at least, if the spec leaves that to us."""
    recorded: int
    """Steps whose records the driver has."""
    evaluated: int
    """The last step whose evaluation the driver has."""
    trusted: int
    """The last step whose state may be kept; later ones may be corrupt."""
    failures: int
    """Groups that broke since the command began."""
    losses: tuple[tuple[int, float], ...]
    """(step, loss) of the last steps that the driver has, but spikes: for states that do not hold the spike guard's window."""
    roll_backs: tuple[RollBack, ...]
    """All that the run has made, in order."""
    peak_flops: float | None
    """Of the group's hardware together, a second, where it is known."""


class Written(NamedTuple):
    """A member's part of a checkpoint."""

    generation: int
    step: int
    outcome: ShardFile | str
    """The shard written, or why it was not."""
    seconds: float
    losses: Losses = ()
    """The spike guard's window after this step."""


@dataclass(frozen=True)
class Status:
    """What a member's watcher learns. Phases: warming, ready, running, paused, broken, finished, failed."""

    phase: str = "warming"
    version: int = 0
    generation: int = 0
    reason: str = ""
    """Why it is broken or failed."""
    exit_status: int = 1
    """Of a failed run."""
    away: bool = False
    """Whether it is broken because storage does not answer."""
    done: int = -1
    """Steps done, of a paused member."""
    spike: int = 0
    """The step whose loss was a spike to roll back from, where that is why it is broken."""
    suspects: tuple[int, ...] = ()
    """Ranks that computed other bits than the others, where that is why it is broken."""
    loaded: int = -1
    """The step of the checkpoint that its group went on from, 0 where there was none; -1 while that is not known, or where
    the group went on from memory."""
    written: tuple[Written, ...] = ()
    """Of this generation's last checkpoints."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Of a ready member: blocks and parameters of the model, its hardware; of a finished one: the weights' SHA-256."""
