"""Messages between the coordinator and the workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from foundray.cluster.remote import Remote
from foundray.data.stream.leases import FeederHandle
from foundray.data.stream.plan import StreamPlan
from foundray.runs.lineage import Lineage
from foundray.training.checkpoints.written import ShardFile
from foundray.training.elastic.recovery import Source, StateShard
from foundray.training.rollback import RollBack
from foundray.training.slots.board import BoardHandle
from foundray.training.step.guards import Losses

if TYPE_CHECKING:
    from numpy.typing import NDArray

HARDWARE_FIELDS = ("hardware", "gradient", "torch", "bitsandbytes", "threads")
"""What equal bits depend on: each is a field of a worker's facts."""


@dataclass(frozen=True)
class Work:
    """What a worker needs to know about its run."""

    spec_json: str
    run: str
    """The run folder's URL."""
    plan: StreamPlan
    classes: int
    """Upper bound (exclusive) of the data's ids; 0 for values."""
    validation_samples: int
    feeder: FeederHandle
    board: BoardHandle


@dataclass(frozen=True)
class Order:
    """Order to join a group."""

    generation: int
    rank: int
    world: int
    rendezvous: tuple[str, int] | None
    """Address and port at which rank 0 gathers the group; None for a group of one."""
    source: Source | None
    """Where the state is, with holders by rank; None for storage."""
    bounds: tuple[int, ...]
    """Boundaries of the workers' shards, in blocks."""
    replica_holder: WorkerHandle | None
    """The worker that keeps the replica of this one's state shard; None for a lone worker."""
    replica_s: float
    """Minimum seconds between two replications if the spec leaves the interval open."""
    recorded: int
    """Last step whose record the driver has."""
    evaluated: int
    """Last step whose evaluation the driver has."""
    lineage: Lineage
    """The run's cuts: states that they have undone are never used."""
    failures: int
    """Groups broken since the command began."""
    losses: tuple[tuple[int, float], ...]
    """(step, loss) of the driver's last steps without spikes: for states that do not hold the spike guard's window."""
    roll_backs: tuple[RollBack, ...]
    """All roll-backs of the run, in order."""
    peak_flops: float | None
    """Peak FLOP/s of the group's hardware together, if known."""


class Written(NamedTuple):
    """A worker's part of a checkpoint."""

    generation: int
    step: int
    outcome: ShardFile | str
    """The shard written, or why it was not."""
    seconds: float
    losses: Losses = ()
    """The spike guard's window after this step."""


@dataclass(frozen=True)
class Status:
    """A worker's status, as the coordinator sees it. Phases: warming, ready, running, paused, broken, finished, failed."""

    phase: str = "warming"
    version: int = 0
    generation: int = 0
    reason: str = ""
    """Why the worker is broken or failed."""
    exit_status: int = 1
    """Exit status of a failed run."""
    away: bool = False
    """Whether storage that does not answer broke it."""
    done: int = -1
    """Steps done, if paused."""
    spike: int = 0
    """Step whose loss spike requires a roll-back, if that is why it is broken."""
    suspects: tuple[int, ...] = ()
    """Ranks that computed different bits, if that is why it is broken."""
    loaded: int = -1
    """Step of the checkpoint its group loaded, 0 if there was none; -1 if not known yet, or if the state came from memory."""
    written: tuple[Written, ...] = ()
    """Parts of this generation's last checkpoints."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Of a ready worker: the model's blocks and parameters, and its hardware; of a finished one: the weights' SHA-256."""


class WorkerHandle(Protocol):
    """A worker, as the coordinator and other workers call it."""

    begin: Remote[[Work]]
    watch: Remote[[int]]
    rendezvous: Remote[[]]
    take_part: Remote[[Order]]
    pause: Remote[[int, bool]]
    halt: Remote[[float]]
    hold: Remote[[StateShard, dict[str, NDArray[Any]]]]
    hand_over: Remote[[WorkerHandle]]
