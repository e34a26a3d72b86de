"""What the lines of a run's events.jsonl and metrics.jsonl hold: the form of each kind of record, for whoever reads them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    time: float
    """Seconds since the epoch, by the driver's clock, which does not go back."""


class Step(Line):
    """A step that was done; one done again after a fault has a line each time, of which the last counts."""

    step: int
    """Counted from 1."""
    tokens: int
    """Predicted positions until then."""
    loss: float
    """Mean over the step's answers, in nats, before the update."""
    grad_norm: float
    """Of the whole gradient, before it was clipped."""
    lr: float
    """The learning rate of its update."""
    step_s: float
    """Seconds that it took."""
    data_wait_s: float
    """Seconds of these in which rank 0 waited for data."""
    copy_s: float
    """Seconds before it, for copies of the state."""
    tokens_per_s: float
    """Of this step."""
    workers: int
    """That computed it."""
    takers: list[tuple[int, int]]
    """Which worker computed which micro-batches: [rank, count] pairs, in the order of the micro-batches."""
    skipped: list[int]
    """Micro-batches left out, since their loss or gradient was not finite."""
    spike: bool
    """Whether the loss was a spike, and the update was not made."""
    data: str
    """A fingerprint of all its samples, in order."""
    mirrored: int | None = None
    """The last step whose state another node's memory holds too; none where a worker is alone."""
    passed_over: int
    """Steps' worth of data that its own are ahead of its number, after roll-backs."""
    lineage: str = ""
    """Id of the last cut (roll-back or loss of trust) under which the step was computed; empty before the first one."""


class Command(Line):
    """A command began."""

    event: Literal["command"]
    workers: tuple[int, int]
    """The fewest and the most that it takes."""
    environment: dict[str, str]
    """Versions of Python and of the packages that can change a result, and the platform."""


class Places(Line):
    """Ray Train was asked for places."""

    event: Literal["places"]
    pool: str
    """The pool's name; empty where there are none."""
    request: str
    """What Ray's autoscaling coordinator knows the request as; empty where a command has a Ray for itself, and asks none."""


class PlacesLost(Line):
    """Ray Train gave up a pool's places; it is asked again."""

    event: Literal["places_lost"]
    pool: str
    """The pool's name; empty where there are none."""
    reason: str
    """What it said."""


class MemberReady(Line):
    """A worker's process is ready to take part."""

    event: Literal["member_ready"]
    member: int
    """Its number, in the order in which they were started."""
    node: str
    """Its node's name: a local cluster's, a host's, or the first digits of Ray's id."""
    node_id: str = ""
    """Ray's id of its node; earlier versions had that in `node`."""
    seconds: float
    """Since it was started."""
    device: str
    """That it computes on."""
    hardware: str
    """The GPU's name, or what of a CPU's instructions is used."""
    gradient: str = ""
    """CRC-32 of the gradient of a layer of the model's shape on the same values: workers with equal ones compute equal bits,
    as far as can be seen before the run."""
    torch: str = ""
    """Its version there."""
    bitsandbytes: str = ""
    """Its version there."""
    threads: str = ""
    """CPU threads that it computes with."""
    model_s: float
    """Seconds of these for the model."""


class MemberLost(Line):
    """A worker is gone, or was let go."""

    event: Literal["member_lost"]
    member: int
    """Its number."""
    node: str
    """Its node's name."""
    reason: str
    """Why."""


class MemberLeft(Line):
    """A worker that was asked to go has handed over its part of the state."""

    event: Literal["member_left"]
    member: int
    """Its number."""
    node: str
    """Its node's name."""


class Initialised(Line):
    """The run's first weights were taken from another run."""

    event: Literal["initialised"]
    step: int
    """Steps done: 0."""
    run: str
    """The other run's folder."""
    run_step: int
    """Steps done in its checkpoint."""
    weights_sha256: str
    """Of the weights in it."""
    teacher_sha256: str | None
    """Of its teacher's, where both runs have a teacher."""
    taken: int
    """Parameters that were taken, as a whole or their first rows."""
    parameters: int
    """That there are."""
    new: list[str]
    """Parts that were initialised as usual."""


class WorkersStarted(Line):
    """A group began to train."""

    event: Literal["workers_started"]
    step: int
    """Steps done in the state that it began from."""
    workers: int
    """How many they are."""
    device: str
    """That rank 0 computes on."""
    state: Literal["memory", "storage"]
    """Where the state came from."""
    seconds: float
    """From the order to the state being there."""
    peak_flops: float | None = None
    """FLOP/s that all of its devices could do at most, where that is known."""


class Evaluated(Line):
    """The validation split, or a part of it, was looked at."""

    event: Literal["evaluated"]
    step: int
    """Steps done."""
    set: str = "validation"
    """The set of samples."""
    samples: int | None = None
    """How many of them were looked at; none in records of before, when it was all."""
    of_samples: int | None = None
    """How many there are."""
    val_loss: float
    """Mean in nats per token; infinite where a loss was not finite (`null` where `foundray logs --json` prints it)."""
    compared_loss: float | None = None
    """The same over the samples that the evaluations before looked at, by which checkpoints are compared: of the last
    evaluation, if that looks at more."""
    val_tokens: int
    """Tokens predicted."""
    not_finite: int = 0
    """Micro-batches whose loss was not finite."""
    feature_spread: float
    """Of the features of up to 512 samples: their deviation; near 0 where they collapse."""
    effective_rank: float
    """Of these features: about how many directions they spread over."""
    seconds: float
    """That it took."""
    bits_per_byte: float | None = None
    """Of text: the loss, free of the tokenizer."""


class Checkpoint(Line):
    """A checkpoint is complete."""

    event: Literal["checkpoint"]
    step: int
    """Steps done."""
    bytes: int
    """Of all its shards."""
    seconds: float
    """For writing it, beside the training."""


class CheckpointLate(Line):
    """A checkpoint was left out."""

    event: Literal["checkpoint_late"]
    step: int
    """Steps done."""
    reason: str
    """Why."""


class CheckpointFailed(Line):
    """A checkpoint could not be written."""

    event: Literal["checkpoint_failed"]
    step: int
    """Steps done."""
    reason: str
    """Why."""


class PruneFailed(Line):
    """Checkpoints that are not kept could not be deleted; it is tried again after the next one."""

    event: Literal["prune_failed"]
    step: int
    """Steps done in the checkpoint that took their place."""
    reason: str
    """Why."""


class CheckpointSkipped(Line):
    """A checkpoint could not be used."""

    event: Literal["checkpoint_skipped"]
    step: int
    """Steps done in the one that was used."""
    reason: str
    """Which it was, and why."""
    going_on_from: int
    """The same step."""


class GroupBroken(Line):
    """A group cannot go on; the next one is formed."""

    event: Literal["group_broken"]
    step: int
    """The last one recorded."""
    reason: str
    """What was found."""


class GroupNotFormed(Line):
    """One more was lost while a group was formed."""

    event: Literal["group_not_formed"]
    reason: str
    """The error's kind."""


class TooFew(Line):
    """Fewer workers are left than the run takes; it waits."""

    event: Literal["too_few"]
    workers: int
    """Those that are left."""
    needed: int
    """The fewest it takes."""


class Waiting(Line):
    """The run has waited for workers for a while."""

    event: Literal["waiting"]
    reason: str
    """What is missing."""


class RolledBack(Line):
    """A loss spike led back to an earlier state, from which later data follow."""

    event: Literal["rolled_back"]
    step: int
    """The step whose loss was a spike."""
    spike: int
    """The same step."""
    to: int
    """Steps done in the state that the run went back to."""
    passed_over: int
    """Steps' worth of data that are passed over in all, from there on."""


class LeftOut(Line):
    """A node computes other bits, and is used no more."""

    event: Literal["left_out"]
    step: int
    """The last one recorded."""
    node: str
    """Its name; of several nodes, a comma between them."""
    reason: str
    """What was found."""


class RecheckSkipped(Line):
    """A recheck was left out, since a worker could not read the micro-batch."""

    event: Literal["recheck_skipped"]
    step: int
    """The step that it was due in."""
    reason: str
    """Why."""


class Unlike(Line):
    """The group's hardware is of several kinds."""

    event: Literal["unlike"]
    step: int
    """Steps done."""
    reason: str
    """Which kinds."""


class Stopped(Line):
    """The command ended because it was asked to."""

    event: Literal["stopped"]
    step: int
    """Steps done."""
    checkpoint: int
    """The step of the last complete checkpoint; 0 for none."""
    by: str
    """Who asked: a person, or a signal, such as `SIGINT` for Ctrl-C."""


class Failed(Line):
    """The command ended with an error."""

    event: Literal["failed"]
    step: int
    """The last one recorded."""
    reason: str
    """The sentence that was told."""
    exit_status: int
    """1: the run failed; 2: the input is at fault."""


class Finished(Line):
    """The run is at its end."""

    event: Literal["finished"]
    step: int
    """Its last."""
    weights_sha256: str
    """Over the parameters in name order: the name, and then the little-endian fp32 bytes."""


EVENTS: dict[str, type[Line]] = {
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
"""By the word in their field `event`."""
