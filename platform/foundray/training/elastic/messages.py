"""Messages between the coordinator and the workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ray import ObjectRef

from foundray.cluster.remote import Remote
from foundray.data.formats import Rewrites
from foundray.data.stream.leases import FeederHandle
from foundray.data.stream.plan import StreamPlan
from foundray.data.stream.validation import ValidationSet
from foundray.runs.checkpoints import Checkpoint
from foundray.runs.lineage import Lineage
from foundray.training.protocol.states import Source, StateShard
from foundray.training.rollback import RollBack
from foundray.training.slots.board import BoardHandle

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
    validation_sizes: tuple[int, ...]
    """Samples of each source in the validation split."""
    prompts: tuple[str, ...]
    """Prompts that the model continues at each evaluation."""
    sets: tuple[ValidationSet, ...]
    """Further validation sets."""
    feeder: FeederHandle
    board: BoardHandle
    rewrites: Rewrites = ()
    """What the readers of the data do to all texts, and so to those of tasks."""
    earlier_fingerprints: tuple[str, ...] = ()
    """Fingerprints of the run's specs before it was extended."""


@dataclass(frozen=True)
class Order:
    """Order to join a group."""

    attempt: int
    """The attempt to form it: a worker that has halted for a later one refuses."""
    generation: int
    rank: int
    world: int
    rendezvous: tuple[str, int] | None
    """Address and port at which rank 0 gathers the group; None for a group of one."""
    source: Source | Checkpoint | ObjectRef | None
    """Where the state is: in memories, with holders by rank (or a reference to that), or in storage; None for a new state."""
    bounds: tuple[int, ...] | None
    """Boundaries of the workers' shards, in blocks; None for equal shards of what each holds."""
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
    val_losses: tuple[tuple[int, float], ...]
    """(step, validation loss) of the evaluations that the driver has, if they may end the run early."""
    peak_flops: float | None
    """Peak FLOP/s of the group's hardware together, if known."""


class WorkerHandle(Protocol):
    """A worker, as the coordinator and other workers call it."""

    begin: Remote[[Work]]
    watch: Remote[[int, float]]
    rendezvous: Remote[[]]
    take_part: Remote[[Order]]
    pause: Remote[[int, bool]]
    halt: Remote[[int, float]]
    hold: Remote[[StateShard, dict[str, NDArray[Any]]]]
    hand_over: Remote[[WorkerHandle, Sequence[StateShard]]]
