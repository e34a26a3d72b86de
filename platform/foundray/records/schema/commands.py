"""Events of a command and of what it makes of the run: where it begins, what is measured, how it ends."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from foundray.records.schema.line import Event
from foundray.records.traits import Trait


class Command(Event):
    """A command began."""

    traits = Trait.BEGINS | Trait.RESIZES
    defaults: ClassVar[dict[str, Any]] = {"environment": {}}
    event: Literal["command"]
    workers: tuple[int, int]
    """The fewest and the most workers that it uses."""
    environment: dict[str, str]
    """Versions of Python and of the packages that can change a result, and the platform."""


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


class Branched(Event):
    """The run began with the state of another run's checkpoint, under another spec."""

    traits = Trait.ROUTINE | Trait.MOVES
    event: Literal["branched"]
    step: int
    """Steps done in that state, by the other run."""
    run: str
    """The other run's folder."""
    fingerprint: str
    """Fingerprint of its spec."""
    state_sha256: str
    """SHA-256 of the state."""
    passed_over: int
    """Data offset that the other run had there, in steps."""
    changed: dict[str, tuple[Any, Any]]
    """Fields of the spec that differ, by dotted name: the other run's value and this one's."""


class Extended(Event):
    """The run was made longer. It continues from a checkpoint of before its updates would differ in the longer run."""

    traits = Trait.MOVES
    event: Literal["extended"]
    step: int
    """Steps done before."""
    to: int
    """Steps done in the state that it continues from; states of later steps are undone."""
    trusted: int
    """Number of first steps that are the same in the longer run, as far as they were done."""
    cut: str
    """Id of this cut of the run's lineage."""
    fingerprint: str
    """Fingerprint of the spec before."""
    changed: dict[str, tuple[Any, Any]]
    """Fields of the spec that changed, by dotted name: the value before and the value after."""


class EvaluatedSource(BaseModel):
    """The loss on one source's samples of an evaluation."""

    model_config = ConfigDict(extra="forbid")

    source: int
    """Index in `data.sources`."""
    name: str
    """That index and the file name of its path."""
    loss: float
    """Mean in the objective's unit, such as nats per token; infinite if a loss was not finite."""
    tokens: int
    """Number of tokens predicted."""
    bits_per_byte: float | None = None
    """For text: the loss, independent of the tokenizer."""
    perplexity: float | None = None
    """Exponential of the loss, if that is the data's own likelihood."""


class EvaluatedSet(BaseModel):
    """The loss on a further validation set."""

    model_config = ConfigDict(extra="forbid")

    name: str
    """Its name in `evaluate.sets`."""
    samples: int
    """Number of samples evaluated."""
    of_samples: int
    """Number of samples in the set."""
    loss: float
    """Mean in the objective's unit, such as nats per token; infinite if a loss was not finite."""
    tokens: int
    """Number of tokens predicted."""
    bits_per_byte: float | None = None
    """For text: the loss, independent of the tokenizer."""
    perplexity: float | None = None
    """Exponential of the loss, if that is the data's own likelihood."""


class EvaluatedTask(BaseModel):
    """A task by likelihood, at an evaluation."""

    model_config = ConfigDict(extra="forbid")

    name: str
    """Its name in `evaluate.tasks`."""
    kind: str
    """Kind of its items: `choice`, `answer`, `pair` or `text`."""
    items: int
    measures: dict[str, float]
    """Measures by name, the most telling first."""
    errors: dict[str, float]
    """Their standard errors over the items, if they have one."""


class Continuation(BaseModel):
    """What the model makes of a prompt."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    text: str
    """What follows the prompt, by the likeliest token each time."""


class LayerHealth(BaseModel):
    """How a layer fares."""

    model_config = ConfigDict(extra="forbid")

    layer: str
    """`layers.3`, `embed_tokens`, `lm_head`."""
    weight_rms: float
    """Root mean square of its weights."""
    gradient_rms: float | None = None
    """Of the last step's gradient, before clipping; none if no step was done since the state was loaded."""
    update_rms: float | None = None
    """Of what the last step changed its weights by; none in the same case."""
    attention_logit_max: float | None = None
    """Largest attention logit (scaled product of a query and a key) over up to 512 validation samples."""
    dead_units: float | None = None
    """Share of its feed-forward units, 0 to 1, that were active nowhere in these samples: never above 0 with ReLU, never beyond
    0.001 in magnitude with GELU and SwiGLU."""


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
    """Mean in the objective's unit, such as nats per token; infinite if not finite (`foundray logs --json` prints `null`)."""
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
    perplexity: float | None = None
    """Exponential of the loss, if that is the data's own likelihood."""
    sources: list[EvaluatedSource] | None = None
    """The loss on each source's samples, if the data has several sources."""
    sets: list[EvaluatedSet] | None = None
    """The loss on the further validation sets that were due."""
    tasks: list[EvaluatedTask] | None = None
    """Tasks by likelihood that were due."""
    health: list[LayerHealth] | None = None
    """Root mean squares, attention logits and dead units of each layer."""
    texts: list[Continuation] | None = None
    """What the model makes of fixed prompts, if it continues text."""
    reconstructions: int | None = None
    """Number of samples in `reconstructions/step-N.safetensors`, N being the step: input, what is shown of it, prediction. The
    file is missing if storage did not take it in time."""


class Stopped(Event):
    """The command ended because it was asked to."""

    traits = Trait.ENDS | Trait.ENDS_WELL | Trait.RESIZES
    defaults: ClassVar[dict[str, Any]] = {"checkpoint": 0}
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
    reason: str | None = None
    """Why it ended before `train.steps`."""
