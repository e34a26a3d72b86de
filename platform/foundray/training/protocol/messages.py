"""What the protocol takes and what it decides: typed events in, typed decisions out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from foundray.runs.checkpoints import Checkpoint
from foundray.runs.lineage import Lineage
from foundray.training.protocol.states import Source, StateShard
from foundray.training.rollback import RollBack
from foundray.training.slots.slot import Slot

if TYPE_CHECKING:
    from foundray.training.checkpoints.written import ShardFile


class Phase(StrEnum):
    """A worker's phase."""

    WARMING = "warming"
    READY = "ready"
    RUNNING = "running"
    PAUSED = "paused"
    BROKEN = "broken"
    FINISHED = "finished"
    FAILED = "failed"


IDLE = frozenset({Phase.READY, Phase.PAUSED, Phase.BROKEN, Phase.FINISHED})
"""Phases in which a worker can be ordered to join a group."""
TRANSITIONS: Mapping[Phase, frozenset[Phase]] = {
    Phase.WARMING: frozenset({Phase.READY, Phase.FAILED}),
    Phase.READY: frozenset({Phase.RUNNING}),
    Phase.RUNNING: frozenset({Phase.PAUSED, Phase.BROKEN, Phase.FINISHED, Phase.FAILED}),
    Phase.PAUSED: frozenset({Phase.RUNNING}),
    Phase.BROKEN: frozenset({Phase.RUNNING}),
    Phase.FINISHED: frozenset({Phase.RUNNING}),
    Phase.FAILED: frozenset(),
}
"""Each phase, and those that may follow it. Only an order makes a worker run; a lost worker has no phase any more."""


class Written(NamedTuple):
    """A worker's part of a checkpoint."""

    generation: int
    step: int
    made_under: str
    """Id of the last cut under which the state was made."""
    shards: tuple[ShardFile, ...] | str
    """The files written, or why they were not."""
    seconds: float
    losses: tuple[tuple[int, float], ...] = ()
    """The spike guard's window after this step."""


class Unreadable(NamedTuple):
    """A checkpoint that a worker was ordered to load, and cannot."""

    checkpoint: Checkpoint
    reason: str


@dataclass(frozen=True)
class Status:
    """What a worker says of itself."""

    phase: Phase = Phase.WARMING
    version: int = 0
    generation: int = 0
    """The group that it was last ordered to join."""
    reason: str = ""
    """Why it is broken or failed."""
    exit_status: int = 1
    """Exit status of a failed run."""
    away: bool = False
    """Whether storage that does not answer broke it."""
    done: int = -1
    """Steps done, if it has finished or paused, or found different bits."""
    saved: bool = False
    """Whether it paused with a checkpoint of its last step."""
    spike: int = 0
    """Step whose loss spike requires a roll-back, if that is why it is broken."""
    suspects: tuple[int, ...] = ()
    """Ranks that computed different bits, if that is why it is broken."""
    passed: int = 0
    """The last step that a recheck of several workers has passed in its group; 0 before the first."""
    unreadable: Unreadable | None = None
    written: tuple[Written, ...] = ()
    """Parts of this generation's last checkpoints."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Once: of a ready worker its hardware, blocks and parameters; of a finished one the weights' SHA-256, and the reason if it
    ended early."""


# Events


class Expected(NamedTuple):
    """Slots in which workers may start before Ray Train holds them; `certain` if nobody else can take them."""

    slots: tuple[Slot, ...]
    certain: bool
    seconds: float | None = None
    """Time within which they have to be held, if they are on a new node."""


class SlotsHeld(NamedTuple):
    """What Ray Train holds now, the nodes that drain, and why no slot can be had, if that is so."""

    held: tuple[Slot, ...]
    draining: frozenset[str] = frozenset()
    problem: str = ""


class Heard(NamedTuple):
    """A worker's new status, or a sign of life."""

    number: int
    status: Status


class Gone(NamedTuple):
    """A worker's process or node is gone."""

    number: int
    reason: str


class Halted(NamedTuple):
    """A worker's answer to `Halt`: its status, even if an order to join has not reached it, and what it holds."""

    attempt: int
    number: int
    status: Status
    shards: tuple[StateShard, ...]


class HandedOver(NamedTuple):
    """A worker has copied these state shards to its successor."""

    attempt: int
    number: int
    shards: tuple[StateShard, ...]


class Opened(NamedTuple):
    """The feeder gives leases of a new generation, and rank 0 has a place to meet."""

    attempt: int
    generation: int
    meeting: tuple[str, int] | None


class NotOpened(NamedTuple):
    attempt: int
    reason: str


class Recorded(NamedTuple):
    """The last step that this command has recorded."""

    step: int


class Stored(NamedTuple):
    """The last step whose record is stored."""

    step: int


class Committed(NamedTuple):
    """A manifest is written. `generation` is the one given in `Commit`."""

    generation: int
    checkpoint: Checkpoint


class NotCommitted(NamedTuple):
    checkpoint: Checkpoint
    reason: str


class Pruned(NamedTuple):
    """Checkpoints that were deleted."""

    checkpoints: frozenset[Checkpoint]


class CutsRead(NamedTuple):
    """The log's cuts, among them those that another command has recorded, with the roll-backs in force."""

    number: int
    lineage: Lineage
    roll_backs: tuple[RollBack, ...]


class StopAsked(NamedTuple):
    """The command shall stop, with a checkpoint."""


class TakenOver(NamedTuple):
    """Another command has the run."""

    run: str


class Tick(NamedTuple):
    """Time has passed."""


Event = (
    Expected | SlotsHeld | Heard | Gone | Halted | HandedOver | Opened | NotOpened
    | Recorded | Stored | Committed | NotCommitted | Pruned | CutsRead | StopAsked | TakenOver | Tick
)  # fmt: skip


# Decisions


class Start(NamedTuple):
    """Start a worker, which warms up."""

    number: int
    slot: Slot


class Dismiss(NamedTuple):
    """Kill a worker."""

    number: int


class Halt(NamedTuple):
    """Ask workers whether they are alive, and to stop what is under way."""

    attempt: int
    numbers: tuple[int, ...]


class HandOver(NamedTuple):
    """Let a worker that is not of the next group copy state shards to one that is."""

    attempt: int
    number: int
    to: int
    shards: tuple[StateShard, ...]


class Open(NamedTuple):
    """Void all leases and begin a generation; `host` is the first worker."""

    attempt: int
    world: int
    host: int


class Join(NamedTuple):
    """Order workers to form a group, by rank. A worker that has halted for a later attempt refuses."""

    attempt: int
    generation: int
    numbers: tuple[int, ...]
    meeting: tuple[str, int] | None
    source: Source | Checkpoint | None
    """Where the state is: in their memories, with holders by rank, or in storage; None for a new one."""
    lineage: Lineage
    roll_backs: tuple[RollBack, ...]
    failures: int
    """Groups broken since the command began."""


class Pause(NamedTuple):
    """Stop after the step under way; with `save`, write a checkpoint of it."""

    generation: int
    numbers: tuple[int, ...]
    save: bool


class Commit(NamedTuple):
    """Write the manifest of a checkpoint."""

    generation: int
    checkpoint: Checkpoint
    parts: tuple[Written, ...]


class Note(NamedTuple):
    """Record an event."""

    kind: str
    fields: dict[str, Any]


class Undo(NamedTuple):
    """Record a cut. It must be stored before anything that follows is done."""

    kind: Literal["rolled_back", "left_out"]
    fields: dict[str, Any]
    lineage: Lineage
    """With this cut."""


class ReadCuts(NamedTuple):
    """Read the cuts in the run's log, all that are recorded by now. Later requests have greater numbers."""

    number: int


class Follow(NamedTuple):
    """Another command has recorded cuts, which undo all states after `to`: take the run's cuts and roll-backs to be these."""

    to: int
    lineage: Lineage
    roll_backs: tuple[RollBack, ...]


class Waiting(NamedTuple):
    """Too few workers are ready; with `give_up` for too long."""

    ready: int
    seconds: float
    give_up: bool


class GiveUp(NamedTuple):
    """End the command; the run can be resumed, unless its input is at fault."""

    reason: str
    exit_status: int = 1


class End(NamedTuple):
    """The run is finished, or stopped on request with a checkpoint of this step."""

    state: Literal["finished", "stopped"]
    step: int


Decision = (
    Start | Dismiss | Halt | HandOver | Open | Join | Pause
    | Commit | Note | Undo | ReadCuts | Follow | Waiting | GiveUp | End
)  # fmt: skip
