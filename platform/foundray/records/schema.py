"""Forms of the records in a run's events.jsonl and metrics.jsonl, and the traits of each kind of event."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from foundray.records.traits import Trait


class Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    time: float
    """Seconds since the epoch, by the driver's clock, which does not go back."""


class Event(Line):
    traits: ClassVar[Trait] = Trait.NONE
    # Values for fields that the first versions did not record.
    defaults: ClassVar[dict[str, Any]] = {}


class Step(Line):
    """A finished step. A step repeated after a fault has one line each time; the last one counts."""

    step: int
    """Counted from 1."""
    tokens: int
    """Positions predicted so far, over all steps."""
    loss: float
    """Mean over the step's predictions before the update, in nats."""
    grad_norm: float
    """Norm of the whole gradient before clipping."""
    lr: float
    """Learning rate of the update."""
    step_s: float
    """Duration in seconds."""
    data_wait_s: float
    """The part of `step_s` in which rank 0 waited for data."""
    copy_s: float
    """Seconds before the step, for copies of the state."""
    tokens_per_s: float
    """Throughput of this step."""
    workers: int
    """Workers that computed the step."""
    takers: list[tuple[int, int]]
    """Which worker computed which micro-batches: [rank, count] pairs, in micro-batch order."""
    skipped: list[int]
    """Micro-batches left out because their loss or gradient was not finite."""
    spike: bool
    """Whether the loss was a spike, so that the update was not made."""
    data: str
    """Fingerprint of all samples, in order."""
    mirrored: int | None = None
    """The last step whose state another node's memory also holds; none if a worker is alone."""
    passed_over: int
    """Data offset: steps by which its data are ahead of its number, after roll-backs."""
    lineage: str = ""
    """Id of the last cut (roll-back or loss of trust) before the step was computed; empty before the first."""


class Command(Event):
    """A command began."""

    traits = Trait.BEGINS | Trait.RESIZES
    defaults = {"environment": {}}
    event: Literal["command"]
    workers: tuple[int, int]
    """The fewest and the most workers that it uses."""
    environment: dict[str, str]
    """Versions of Python and of the packages that can change a result, and the platform."""


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
    defaults = {"hardware": ""}
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


class Initialised(Event):
    """The run's first weights came from another run."""

    traits = Trait.ROUTINE
    event: Literal["initialised"]
    step: int
    """Steps done: 0."""
    run: str
    """The other run's folder."""
    run_step: int
    """Steps done in that run's checkpoint."""
    weights_sha256: str
    """Hash of the weights in it."""
    teacher_sha256: str | None
    """Hash of its teacher's weights, if both runs have a teacher."""
    taken: int
    """Number of parameters taken, whole or in their first rows."""
    parameters: int
    """Number of all parameters."""
    new: list[str]
    """Parts initialised as usual."""


class WorkersStarted(Event):
    """A group began to train."""

    traits = Trait.BEGINS | Trait.PRINTED | Trait.RESIZES | Trait.MOVES
    event: Literal["workers_started"]
    step: int
    """Steps done in the state that the group began from."""
    workers: int
    """Number of workers in the group."""
    device: str
    """The device that rank 0 computes on."""
    state: Literal["memory", "storage"]
    """Where the state came from."""
    seconds: float
    """Seconds from the order to start until the state was loaded."""
    peak_flops: float | None = None
    """Peak FLOP/s of all devices together, if known."""


class Evaluated(Event):
    """The validation split, or part of it, was evaluated."""

    traits = Trait.ROUTINE | Trait.PRINTED | Trait.LATE
    event: Literal["evaluated"]
    step: int
    """Steps done."""
    set: str = "validation"
    """Name of the sample set."""
    samples: int | None = None
    """Number of samples evaluated; none in earlier records, which evaluated all."""
    of_samples: int | None = None
    """Number of samples in the set."""
    val_loss: float
    """Mean in nats per token; infinite if a loss was not finite (`foundray logs --json` prints `null`)."""
    compared_loss: float | None = None
    """`val_loss` over the samples that earlier evaluations used, to compare checkpoints; in the last evaluation, if that
    uses more samples."""
    val_tokens: int
    """Number of tokens predicted."""
    not_finite: int = 0
    """Number of micro-batches whose loss was not finite."""
    feature_spread: float
    """Standard deviation of the features of up to 512 samples; near 0 if they collapse."""
    effective_rank: float
    """Effective rank of these features: about how many directions they spread over."""
    seconds: float
    """Duration in seconds."""
    bits_per_byte: float | None = None
    """For text: the loss, independent of the tokenizer."""


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


class RolledBack(Event):
    """After a loss spike, the run returned to an earlier state and continues with later data."""

    traits = (
        Trait.PRINTED
        | Trait.FAULT
        | Trait.FAULT_MARK
        | Trait.AWAITS_GROUP
        | Trait.STOPS_GROUP
        | Trait.RECOVERS
        | Trait.MOVES
        | Trait.CUTS
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


class LeftOut(Event):
    """A node computes different bits and is cordoned: it is not used again."""

    traits = Trait.PRINTED | Trait.FAULT | Trait.FAULT_MARK | Trait.AWAITS_GROUP | Trait.STOPS_GROUP | Trait.CUTS
    event: Literal["left_out"]
    step: int
    """The last step recorded."""
    node: str
    """The node's name; several are separated by commas."""
    reason: str
    """What was found."""


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


class Stopped(Event):
    """The command ended because it was asked to."""

    traits = Trait.ENDS | Trait.ENDS_WELL | Trait.RESIZES
    defaults = {"checkpoint": 0}
    event: Literal["stopped"]
    step: int
    """Steps done."""
    checkpoint: int
    """The step of the last complete checkpoint; 0 for none."""
    by: str
    """Who asked: a person, or a signal such as `SIGINT` for Ctrl-C."""


class Failed(Event):
    """The command ended with an error."""

    traits = Trait.ENDS | Trait.RESIZES
    event: Literal["failed"]
    step: int
    """The last step recorded."""
    reason: str
    """The error message."""
    exit_status: int
    """1 if the run failed; 2 if the input is at fault."""


class Finished(Event):
    """The run is complete."""

    traits = Trait.ENDS | Trait.ENDS_WELL | Trait.RESIZES
    event: Literal["finished"]
    step: int
    """The last step."""
    weights_sha256: str
    """Hash over the parameters in name order: the name, then the little-endian fp32 bytes."""


EVENTS: dict[str, type[Event]] = {
    "command": Command,
    "places": Places,
    "places_lost": PlacesLost,
    "member_ready": MemberReady,
    "member_lost": MemberLost,
    "member_left": MemberLeft,
    "initialised": Initialised,
    "workers_started": WorkersStarted,
    "evaluated": Evaluated,
    "checkpoint": Checkpoint,
    "checkpoint_late": CheckpointLate,
    "checkpoint_failed": CheckpointFailed,
    "prune_failed": PruneFailed,
    "checkpoint_skipped": CheckpointSkipped,
    "group_broken": GroupBroken,
    "group_not_formed": GroupNotFormed,
    "too_few": TooFew,
    "waiting": Waiting,
    "rolled_back": RolledBack,
    "left_out": LeftOut,
    "recheck_skipped": RecheckSkipped,
    "unlike": Unlike,
    "stopped": Stopped,
    "failed": Failed,
    "finished": Finished,
}
"""Forms by the value of their field `event`."""


def kinds(trait: Trait) -> tuple[str, ...]:
    """Return the kinds of events that have any of these traits, in the order of `EVENTS`."""
    return tuple(kind for kind, form in EVENTS.items() if form.traits & trait)
