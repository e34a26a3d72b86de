"""Events of slots, workers and groups."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from foundray.records.schema.line import Event
from foundray.records.traits import Trait


class Places(Event):
    """Ray Train was asked for slots."""

    traits = Trait.ROUTINE | Trait.HIDDEN | Trait.LATE | Trait.BESIDE_DRIVER
    event: Literal["places"]
    pool: str
    """The pool's name; empty if the run has no pools."""
    request: str
    """The request's id in Ray's autoscaling coordinator; empty if a command has Ray to itself and asks for nothing."""


class PlacesLost(Event):
    """Ray Train gave up a pool's slots; it is asked again."""

    event: Literal["places_lost"]
    pool: str
    """The pool's name; empty if the run has no pools."""
    reason: str
    """Ray Train's reason."""


class MemberReady(Event):
    """A worker's process is ready to join a group."""

    traits = Trait.ROUTINE
    defaults: ClassVar[dict[str, Any]] = {"hardware": ""}
    event: Literal["member_ready"]
    member: int
    """The worker's number, in the order of starting."""
    node: str
    """The node's name: a local cluster's, a host's, or the first digits of Ray's id."""
    node_id: str = ""
    """Ray's id of the node; earlier versions had it in `node`."""
    seconds: float
    """Seconds since the worker was started."""
    device: str
    """The device that it computes on."""
    hardware: str
    """The GPU's name, or the CPU instruction set in use."""
    gradient: str = ""
    """CRC-32 of the gradient of a layer of the model's shape on fixed values. Workers with equal values compute equal bits,
    as far as can be seen before the run."""
    torch: str = ""
    """PyTorch's version there."""
    bitsandbytes: str = ""
    """bitsandbytes' version there."""
    threads: str = ""
    """Number of CPU threads that it computes with."""
    model_s: float
    """The part of `seconds` spent on the model."""


class MemberLost(Event):
    """A worker is gone, or was dismissed."""

    traits = Trait.FAULT | Trait.AWAITS_GROUP
    event: Literal["member_lost"]
    member: int
    """The worker's number."""
    node: str
    """Name of its node."""
    reason: str
    """Why."""


class MemberLeft(Event):
    """A worker that was asked to leave has handed over its state shard."""

    traits = Trait.AWAITS_GROUP | Trait.STOPS_GROUP
    event: Literal["member_left"]
    member: int
    """The worker's number."""
    node: str
    """Name of its node."""


class WorkersStarted(Event):
    """A group began to train."""

    traits = Trait.BEGINS | Trait.PRINTED | Trait.RESIZES | Trait.MOVES
    event: Literal["workers_started"]
    step: int
    """Steps done in the state that the group began from."""
    workers: int
    """Number of workers in the group."""
    team: int = 1
    """Workers that hold one copy of the model between them."""
    device: str
    """The device that rank 0 computes on."""
    state: Literal["memory", "storage"]
    """Where the state came from."""
    seconds: float
    """Seconds from the order to start until the state was loaded."""
    peak_flops: float | None = None
    """Peak FLOP/s of all devices together, if known."""


class GroupBroken(Event):
    """A group cannot continue; the next one is formed."""

    traits = Trait.PRINTED | Trait.FAULT | Trait.FAULT_MARK | Trait.AWAITS_GROUP | Trait.STOPS_GROUP | Trait.RECOVERS
    event: Literal["group_broken"]
    step: int
    """The last step recorded."""
    reason: str
    """What was found."""


class GroupNotFormed(Event):
    """Another worker was lost while a group was being formed."""

    traits = Trait.AWAITS_GROUP | Trait.STOPS_GROUP
    event: Literal["group_not_formed"]
    reason: str
    """Type of the error."""


class TooFew(Event):
    """Fewer workers are left than the run needs; it waits."""

    traits = Trait.FAULT | Trait.FAULT_MARK | Trait.AWAITS_GROUP | Trait.STOPS_GROUP | Trait.RESIZES
    event: Literal["too_few"]
    workers: int
    """Number of workers left."""
    needed: int
    """The fewest workers that it needs."""


class Waiting(Event):
    """The run has waited for workers for a while."""

    traits = Trait.PRINTED | Trait.AWAITS_GROUP
    event: Literal["waiting"]
    reason: str
    """What is missing."""


class LeftOut(Event):
    """A node computes different bits and is cordoned: it is not used again."""

    traits = Trait.PRINTED | Trait.FAULT | Trait.FAULT_MARK | Trait.AWAITS_GROUP | Trait.STOPS_GROUP
    event: Literal["left_out"]
    step: int
    """The last step recorded."""
    node: str
    """The node's name; several are separated by commas."""
    reason: str
    """What was found."""
    trusted: int = 0
    """The last step whose computation is trusted."""
    to: int = 0
    """States of later steps are undone."""
    cut: str = ""
    """Id of this cut of the run's lineage; empty in records of earlier versions."""


class UndoneElsewhere(Event):
    """A command that this one has taken over from has recorded a cut since, which this one follows."""

    traits = Trait.PRINTED | Trait.FAULT | Trait.AWAITS_GROUP | Trait.STOPS_GROUP
    event: Literal["undone_elsewhere"]
    to: int
    """States of later steps are undone."""


class RecheckSkipped(Event):
    """A recheck was skipped because a worker could not read the micro-batch."""

    traits = Trait.PRINTED
    event: Literal["recheck_skipped"]
    step: int
    """The step in which it was due."""
    reason: str
    """Why."""


class Unlike(Event):
    """The group has several kinds of hardware."""

    traits = Trait.PRINTED
    event: Literal["unlike"]
    step: int
    """Steps done."""
    reason: str
    """Which kinds."""


class RolledBack(Event):
    """After a loss spike, the run returned to an earlier state and continues with later data."""

    traits = (
        Trait.PRINTED | Trait.FAULT | Trait.FAULT_MARK | Trait.AWAITS_GROUP | Trait.STOPS_GROUP | Trait.RECOVERS | Trait.MOVES
    )
    event: Literal["rolled_back"]
    step: int
    """The step whose loss was a spike."""
    spike: int
    """The same as `step`."""
    to: int
    """Steps done in the state that the run returned to."""
    passed_over: int
    """Data offset from there on: steps by which the data are ahead, over all roll-backs."""
    cut: str = ""
    """Id of this cut of the run's lineage; empty in records of earlier versions."""
