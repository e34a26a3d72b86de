"""Data, objective, network and training: the sections that decide a run's result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from foundray import contract
from foundray.contract import MODALITIES, OBJECTIVES, installed
from foundray.spec.formats import DOCUMENTS, NAMES, listed
from foundray.spec.optimizers import KINDS
from foundray.spec.section import Filled, Section, nearest

if TYPE_CHECKING:
    FormatName = str
    OptimizerName = str
    Steps = int
else:
    FormatName = Literal[NAMES]
    OptimizerName = Literal[tuple(KINDS)]
    Steps = PositiveInt | None  # None only until the data have said how long `epochs` are: see `spec.length`


def check_installed(what: str, kind: str, group: str) -> str:
    """Return `kind` if the group has it. Raises ValueError."""
    if kind not in (names := installed(group)):
        raise ValueError(f"no {what} of this name is installed{nearest(kind, names)}; there are: {', '.join(names)}")
    return kind


class SourceConfig(Section):
    path: str = Field(min_length=1)
    """A file, a folder or a glob (`*`, `?`, `[a-z]`, `{a,b}`; `**` crosses folders), local or a URL; `.gz`, `.zst`, `.xz`,
    `.bz2` and `.lz4` files are decompressed."""
    format: FormatName = Field(
        default="auto",
        description=f"How the data is stored: documents in {listed(row.title for row in DOCUMENTS.values())}; `files` of the "
        "modality's own kinds; or tar archives of either (WebDataset). With `auto`, each file's extension decides; files known "
        "to be of no such format are skipped, and one line says so.",
    )
    weight: PositiveFloat = 1.0
    """This source's share of the samples seen in training, relative to the other sources' weights."""
    field: str = "text"
    """The field (JSON Lines) or column (CSV, Parquet) that holds the text."""
    documents: Literal["file", "line", "paragraph"] = "file"
    """Unit of a document in a text file: the file, each non-empty line, or each block between empty lines."""
    licence: str | None = None
    """Licence of the data, as an SPDX identifier if there is one (`CC-BY-SA-4.0`); exports state it."""


class TokenizerConfig(Section):
    kind: Literal["bytes", "char", "bpe", "file"] = "bytes"
    """`bytes`, `char` (every character of the data), `bpe` (trained on a sample) or `file` (a tokenizer.json)."""
    vocab_size: int | None = Field(default=None, ge=257)
    """Entries in a trained `bpe` vocabulary."""
    path: str | None = None
    """A Hugging Face tokenizer.json, for kind `file`."""
    document_token: str | None = None
    """The token that opens a document, for kind `file` (default: the file's own, or one that is added)."""
    sample_bytes: PositiveInt = 64 * 2**20
    """Bytes of the seeded sample that a `bpe` tokenizer is trained on."""

    @model_validator(mode="after")
    def _complete(self) -> TokenizerConfig:
        for kind, name in (("bpe", "vocab_size"), ("file", "path")):
            given = getattr(self, name) is not None
            if self.kind == kind and not given:
                raise ValueError(f"kind {kind!r} needs {name}")
            if self.kind != kind and given:
                raise ValueError(f"{name} goes with kind {kind!r}, and the kind is {self.kind!r}")
        return self


class ModalityConfig(Section):
    model_config = ConfigDict(extra="allow")

    kind: str = "text"
    """Kind of data; an unknown name lists the installed kinds. Further fields are its options."""

    @field_validator("kind")
    @classmethod
    def _installed(cls, kind: str) -> str:
        return check_installed("modality", kind, MODALITIES)

    def build(self) -> contract.Modality:
        """Raises InputError for an option that it does not have."""
        return contract.load_modality(self.kind, self.model_extra or {})


class DataConfig(Section):
    modality: ModalityConfig = ModalityConfig()
    """Kind of data, and how it becomes units."""
    sources: list[SourceConfig] = Field(min_length=1)
    """Locations of the raw data; several are mixed by weight."""
    holdout: float = Field(default=0.05, gt=0, lt=1)
    """The last fraction of each source's samples, kept as the validation split."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """How text becomes tokens."""
    max_bad_rows: NonNegativeInt = 100
    """Rows, or other units, that may be lost (not UTF-8, broken, without the field) before `prepare` stops; empty ones do not
    count."""
    max_bad_share: float = Field(default=0.5, ge=0, le=1)
    """Fraction of a source that may be lost before `prepare` stops: if most of it is bad, the spec is most likely wrong."""


class ObjectiveConfig(Section):
    model_config = ConfigDict(extra="allow")

    kind: str
    """Name of the objective; an unknown name lists the installed ones. Further fields are its options."""

    @field_validator("kind")
    @classmethod
    def _installed(cls, kind: str) -> str:
        return check_installed("objective", kind, OBJECTIVES)

    def build(self) -> contract.Objective:
        """Raises InputError for an option that it does not have."""
        return contract.load_objective(self.kind, self.model_extra or {})


class PredictorConfig(Section):
    width: PositiveInt | None = None
    """Width of its layers, in units (default: half the model's)."""
    depth: PositiveInt = 2
    """Number of layers."""
    heads: PositiveInt | None = None
    """Attention heads per layer (default: as the model)."""


class ModelConfig(Section):
    width: Annotated[PositiveInt, Filled("128")]
    """Width of the residual stream, in units."""
    depth: Annotated[PositiveInt, Filled("4")]
    """Number of layers."""
    heads: Annotated[PositiveInt, Filled("4")]
    """Attention heads per layer; they divide the width."""
    context: Annotated[int, Filled("128; 60 units of values; all of an image")] = Field(ge=2)
    """Longest sequence, in tokens."""
    hidden: PositiveInt | None = None
    """Width of the feed-forward layers (default: 8/3 of the width, rounded up to a multiple of 32)."""
    rope_theta: PositiveFloat | None = 10_000.0
    """Base of the rotary position embedding's wavelengths; `null` turns rotation off."""
    norm: Literal["rms", "ln"] = "rms"
    """RMSNorm, or LayerNorm."""
    act: Literal["swiglu", "gelu", "relu"] = "swiglu"
    """SwiGLU, or a plain feed-forward layer with GELU or ReLU."""
    bias: bool = False
    """Whether the layers' matrices have biases."""
    class_unit: bool = False
    """Whether a learned vector, always visible and never predicted, comes before a sample's units: the class token of ViT and
    MAE. Its state describes the whole sample (only for values, and objectives that look both ways)."""
    predictor: PredictorConfig = PredictorConfig()
    """The light network that predicts masked units, if the objective drops them."""
    base_width: PositiveInt | None = None
    """Width of the model that the hyperparameters were tuned for; they are scaled to this model's width (CompleteP)."""
    base_depth: PositiveInt | None = None
    """Depth of the model that the hyperparameters were tuned for."""

    @model_validator(mode="after")
    def _heads_fit(self) -> ModelConfig:
        if self.width % self.heads or (self.width // self.heads) % 2:
            fits = [h for h in range(1, self.width + 1) if self.width % h == 0 and (self.width // h) % 2 == 0]
            near = sorted(sorted(fits, key=lambda h: abs(h - self.heads))[:3])
            right = f"use {' or '.join(map(str, near))} heads" if near else "the width must be even"
            raise ValueError(f"width {self.width} does not divide into {self.heads} heads of an even size; {right}")
        if self.base_width:
            self.of_width(self.base_width)
        return self

    def of_width(self, width: int) -> ModelConfig:
        """The same shape at another width, with all parts in proportion; heads keep their size.

        Raises ValueError for a width that the head size does not divide.
        """
        if self.heads * width % self.width:
            size = self.width // self.heads
            raise ValueError(f"heads keep their size, {size}, so the width must be a multiple of it, not {width}")

        def part(count: int | None) -> int | None:
            return None if count is None else round(count * width / self.width)

        of_predictor = {"width": part(self.predictor.width), "heads": part(self.predictor.heads)}
        predictor = self.predictor.model_copy(update=of_predictor)
        sizes = {"width": width, "heads": part(self.heads), "hidden": part(self.hidden), "predictor": predictor}
        return self.model_copy(update=sizes)

    @property
    def base(self) -> ModelConfig | None:
        """The model that the hyperparameters were tuned for, or None if it is this one."""
        if not self.base_width and not self.base_depth:
            return None
        here = {"depth": self.base_depth or self.depth, "base_width": None, "base_depth": None}
        return self.of_width(self.base_width or self.width).model_copy(update=here)

    @property
    def width_mult(self) -> float:
        """Ratio of this width to the base's."""
        return self.width / (self.base_width or self.width)

    @property
    def depth_mult(self) -> float:
        """Ratio of this depth to the base's."""
        return self.depth / (self.base_depth or self.depth)

    @property
    def of_predictor(self) -> ModelConfig:
        """The predictor's shape, as a ModelConfig. Its depth does not depend on the model's."""
        width = self.predictor.width or self.width // 2
        size = {"width": width, "depth": self.predictor.depth, "heads": self.predictor.heads or self.heads, "hidden": None}
        return self.model_copy(update=size | {"base_width": None, "base_depth": None})

    @property
    def hidden_width(self) -> int:
        return self.hidden or -(-8 * self.width // (3 * 32)) * 32


class OptimizerConfig(Section):
    kind: OptimizerName = Field(default="adamw8bit", description=f"{listed(row.about for row in KINDS.values())}.")
    lr: Annotated[PositiveFloat, Filled("0.004, of values 0.003; less for a width above 128")]
    """Peak learning rate."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """Decay per step of the running means of the gradient and of its square."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment (AdamW)."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled decay of the weight matrices per step, times the learning rate; vectors are not decayed."""
    clip: PositiveFloat | None = 1.0
    """Largest global gradient norm; larger gradients are scaled down to it. `null` turns clipping off."""


class ScheduleConfig(Section):
    kind: Literal["wsd", "cosine", "constant"] = "wsd"
    """After warm-up: stable, then decay (`wsd`); a half cosine to zero; or constant."""
    warmup: float | None = Field(default=0.02, ge=0, le=1)
    """Fraction of the run in which the learning rate rises linearly from zero; `null` if `warmup_steps` says it in steps."""
    warmup_steps: NonNegativeInt | None = None
    """Length of the warm-up in steps, in place of `warmup`: it stays the same if the run is extended."""
    decay: float | None = Field(default=0.2, ge=0, le=1)
    """Fraction of the run, at its end, in which `wsd` falls to zero; `null` if `decay_steps` says it in steps."""
    decay_steps: NonNegativeInt | None = None
    """Length of the decay in steps, in place of `decay`."""

    @model_validator(mode="before")
    @classmethod
    def _in_steps(cls, fields: Any) -> Any:
        """A length in steps replaces the default fraction."""
        if not isinstance(fields, dict):
            return fields
        given = [name for name in ("warmup", "decay") if fields.get(f"{name}_steps") is not None]
        return dict.fromkeys(given) | fields

    @model_validator(mode="after")
    def _fits(self) -> ScheduleConfig:
        for name in ("warmup", "decay"):
            fraction, steps = getattr(self, name), getattr(self, f"{name}_steps")
            if (fraction is None) == (steps is None):
                both = "are given, and one is needed" if steps is not None else "are null, and one is needed"
                raise ValueError(f"both {name} (a fraction of the run) and {name}_steps {both}")
        if self.kind == "wsd" and self.warmup is not None and self.decay is not None and self.warmup + self.decay > 1:
            raise ValueError(f"warmup {self.warmup} and decay {self.decay} are together more than the whole run")
        return self

    def warmup_of(self, steps: int) -> int:
        """Steps of warm-up in a run of `steps`."""
        return round(steps * self.warmup) if self.warmup is not None else self.warmup_steps or 0

    def decay_of(self, steps: int) -> int:
        """Steps of `wsd`'s decay in a run of `steps`."""
        return round(steps * self.decay) if self.decay is not None else self.decay_steps or 0

    def problem(self, steps: int) -> str | None:
        """Why a schedule given in steps does not fit a run of `steps`, or None."""
        parts = {"warmup_steps": self.warmup_of(steps)}
        if self.kind == "wsd":
            parts["decay_steps"] = self.decay_of(steps)
        given = [name for name in parts if getattr(self, name) is not None]
        if not given or sum(parts.values()) <= steps:
            return None
        which = " and ".join(f"{name.removesuffix('_steps')} of {count:,} steps" for name, count in parts.items())
        are = "is" if len(parts) == 1 else "are together"
        return f"schedule.{given[0]}: a {which} {are} longer than the run of {steps:,} steps"


class StopEarlyConfig(Section):
    patience: PositiveInt
    """Evaluations in a row without improvement after which the run ends; those every `train.evaluate_every` steps count."""
    min_delta: float = Field(default=0.0, ge=0)
    """Nats by which a validation loss must be below the best so far to be an improvement."""


LENGTHS = ("steps", "tokens", "epochs")
"""Fields of `train` that may give a run's length."""
ALTERNATIVES = (
    tuple(f"train.{name}" for name in LENGTHS),
    *((f"schedule.{name}", f"schedule.{name}_steps") for name in ("warmup", "decay")),
)
"""Fields that say the same in several ways, of which a spec uses one."""


class TrainConfig(Section):
    steps: Annotated[Steps, Filled("1,000, without another length")] = None  # type: ignore[assignment]
    """Optimizer steps in the run. Its length is given by one of `steps`, `tokens` and `epochs`."""
    tokens: PositiveInt | None = None
    """Length in predicted positions instead: as many steps as show the model at least this many."""
    epochs: PositiveFloat | None = None
    """Length in passes over the training split instead: as many steps as show the model at least this many times its number of
    samples. The data decide how many steps that is; the run's folder records it."""
    micro_batches: PositiveInt = 8
    """Micro-batches per step, however many workers share them."""
    micro_batch_size: PositiveInt = 8
    """Samples per micro-batch, which a worker computes at once."""
    exact: bool = True
    """Sum gradients in fixed point, and on GPUs use only deterministic kernels, so that any number of workers gives the same
    bits."""
    recompute: Literal["auto", "none", "selective", "full"] = "auto"
    """What layers compute again in the backward pass, which takes less memory and gives the same bits: all, for about a third
    more time (`full`), all but matrix products and attention (`selective`), or nothing (`none`); `auto` begins with nothing,
    and continues with all once the memory of a device was too small."""
    loss_chunk: PositiveInt | None = None
    """Units for which a head answers at once, and again in the backward pass, so that the logits of a large vocabulary are
    never all in memory; for objectives whose loss is a sum over units. Sums round otherwise, equally on all workers."""
    compile: bool | None = None
    """On GPUs, fuse a layer's operations by torch.compile: faster, after a minute; the bits change, equally on all workers."""
    evaluate_every: PositiveInt = 500
    """Steps between evaluations (there is one at the end, too); `evaluate` sets how many samples they use."""
    checkpoint_every: PositiveInt | Literal["auto"] = 250
    """Steps between checkpoints (there is one at the end, too); `auto` follows from their cost and the fault rate."""
    keep_checkpoints: int = Field(default=3, ge=2)
    """Number of newest checkpoints to keep; two or more, so that a damaged one has a predecessor."""
    keep_every: PositiveInt | None = None
    """Steps between milestones: checkpoints kept for good, one at each multiple, whatever `checkpoint_every` is."""
    keep_best: NonNegativeInt = 0
    """Number of checkpoints with the lowest validation loss to keep, too; each evaluation then has a checkpoint."""

    stop_early: StopEarlyConfig | None = None
    """End the run when the validation loss no longer improves, and keep the best checkpoint. The rule, `train.evaluate_every`
    and the samples of an evaluation then decide the result."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        given = [name for name in LENGTHS if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else "it is missing"
            raise ValueError(f"the run's length is one of steps, tokens and epochs, and {found}")
        return self

    def pins(self, step: int) -> bool:
        """Whether the checkpoint after this step is a milestone, or may be one of the best."""
        return step % (self.keep_every or self.steps + 1) == 0 or (self.best_kept > 0 and step % self.evaluate_every == 0)

    def evaluates(self, step: int) -> bool:
        """Whether there is an evaluation after this step."""
        return step > 0 and (step % self.evaluate_every == 0 or step == self.steps)

    @property
    def saving(self) -> list[str]:
        """The fields that are set so that a micro-batch takes less memory, as a spec has them."""
        recompute = [f"train.recompute: {self.recompute}"] if self.recompute in ("selective", "full") else []
        return [*recompute, *([f"train.loss_chunk: {self.loss_chunk}"] if self.loss_chunk else [])]

    @property
    def best_kept(self) -> int:
        """Number of checkpoints with the lowest validation loss to keep."""
        return max(self.keep_best, 1 if self.stop_early else 0)
