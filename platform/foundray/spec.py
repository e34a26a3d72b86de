"""The spec: one YAML file that says everything a run depends on, checked before anything starts.

Every field's docstring is its documentation: `foundray schema` prints them.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)


class Section(BaseModel):
    """A part of the spec: unknown fields are refused, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Source(Section):
    path: str = Field(min_length=1)
    """A file, a folder or a glob (`**` crosses folders), local or a URL; `.gz` and `.zst` are read as such."""
    format: Literal["text", "jsonl", "parquet"] = "text"
    """How documents are stored: plain text, JSON Lines or Parquet."""
    weight: PositiveFloat = 1.0
    """This source's share of the samples seen in training, relative to the other sources' weights."""
    field: str = "text"
    """The field (JSON Lines) or column (Parquet) that holds the text."""
    documents: Literal["file", "line", "paragraph"] = "file"
    """What one document is in a text file: the file, each non-empty line, or each block between empty lines."""


class Tokenizer(Section):
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
    def _complete(self) -> Tokenizer:
        for kind, name in (("bpe", "vocab_size"), ("file", "path")):
            given = getattr(self, name) is not None
            if self.kind == kind and not given:
                raise ValueError(f"kind {kind!r} needs {name}")
            if self.kind != kind and given:
                raise ValueError(f"{name} goes with kind {kind!r}, and the kind is {self.kind!r}")
        return self


class Data(Section):
    sources: list[Source] = Field(min_length=1)
    """Where the raw data lies; several are mixed by weight."""
    holdout: float = Field(default=0.05, gt=0, lt=1)
    """The last fraction of each source's samples, kept as the validation split."""
    tokenizer: Tokenizer = Tokenizer()
    """How text becomes tokens."""
    max_bad_rows: NonNegativeInt = 100
    """Rows that may be quarantined (not UTF-8, broken, empty) before `prepare` stops."""


class Objective(Section):
    model_config = ConfigDict(extra="allow")

    kind: str
    """The objective's name; the installed ones are listed when the name is unknown. Further fields are its options."""

    @field_validator("kind")
    @classmethod
    def _installed(cls, kind: str) -> str:
        from foundray.contract import objective_names

        if kind not in (names := objective_names()):
            raise ValueError(f"no objective of this name is installed{nearest(kind, names)}; there are: {', '.join(names)}")
        return kind


class Model(Section):
    width: PositiveInt
    """Width of the residual stream, in units."""
    depth: PositiveInt
    """Number of layers."""
    heads: PositiveInt
    """Attention heads a layer; they divide the width."""
    context: int = Field(ge=2)
    """Longest sequence the model sees, in tokens."""
    hidden: PositiveInt | None = None
    """Width of the feed-forward layers (default: 8/3 of the width, rounded up to a multiple of 32)."""
    rope_theta: PositiveFloat = 10_000.0
    """Base of the rotary position embedding's wavelengths."""

    @model_validator(mode="after")
    def _heads_fit(self) -> Model:
        if self.width % self.heads or (self.width // self.heads) % 2:
            fits = [h for h in range(1, self.width + 1) if self.width % h == 0 and (self.width // h) % 2 == 0]
            near = sorted(sorted(fits, key=lambda h: abs(h - self.heads))[:3])
            right = f"heads of {' or '.join(map(str, near))} would do" if near else "the width must be even"
            raise ValueError(f"width {self.width} does not divide into {self.heads} heads of an even size; {right}")
        return self

    @property
    def hidden_width(self) -> int:
        return self.hidden or -(-8 * self.width // (3 * 32)) * 32


class Optimizer(Section):
    kind: Literal["adamw8bit", "adamw", "lion8bit"] = "adamw8bit"
    """bitsandbytes' 8-bit AdamW or Lion, or torch's fused 32-bit AdamW."""
    lr: PositiveFloat
    """Peak learning rate."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """Decay of the running means of the gradient and of its square, a step."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment (AdamW)."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled decay of the weight matrices, times the learning rate, a step; vectors are not decayed."""
    clip: PositiveFloat | None = 1.0
    """Largest global gradient norm; longer gradients are scaled down to it. `null` turns it off."""


class Schedule(Section):
    kind: Literal["wsd", "cosine", "constant"] = "wsd"
    """Warm-up then: stable and decay (`wsd`), a half cosine to zero, or constant."""
    warmup: float = Field(default=0.02, ge=0, le=1)
    """Fraction of the run in which the learning rate rises linearly from zero."""
    decay: float = Field(default=0.2, ge=0, le=1)
    """Fraction of the run, at its end, in which `wsd` falls to zero."""

    @model_validator(mode="after")
    def _fits(self) -> Schedule:
        if self.kind == "wsd" and self.warmup + self.decay > 1:
            raise ValueError(f"warmup {self.warmup} and decay {self.decay} are more than the whole run together")
        return self


class Train(Section):
    steps: PositiveInt
    """Optimizer steps in the run."""
    micro_batches: PositiveInt = 8
    """Micro-batches in a step, however many workers share them."""
    micro_batch_size: PositiveInt = 8
    """Samples in a micro-batch: what a worker computes at once."""
    exact: bool = True
    """Sum gradients in fixed point, so that the result is the same bits for any number of workers."""
    evaluate_every: PositiveInt = 500
    """Steps between passes over the validation split (there is one at the end, too)."""
    checkpoint_every: PositiveInt | Literal["auto"] = 250
    """Steps between checkpoints (there is one at the end, too); `auto` follows from what one costs and how often faults are."""
    keep_checkpoints: int = Field(default=3, ge=2)
    """Newest checkpoints that are kept; two or more, so that a damaged one has a predecessor."""


def _as_pair(value: object) -> object:
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


Range = Annotated[tuple[NonNegativeInt, PositiveInt], BeforeValidator(_as_pair)]


def _ordered(workers: tuple[int, int]) -> tuple[int, int]:
    if workers[0] > workers[1]:
        raise ValueError(f"the fewest come first: [{workers[1]}, {workers[0]}]")
    return workers


class Pool(Section):
    workers: Annotated[Range, AfterValidator(_ordered)]
    """Fewest and most workers of this pool, or one number for both."""
    resources: dict[str, PositiveFloat] = {"CPU": 1}
    """What Ray reserves for each of its workers, such as `{CPU: 4, GPU: 1}`."""
    accelerator: str | None = None
    """Ray's name of the accelerator that its nodes have, such as `A100`."""
    labels: dict[str, str] = {}
    """Ray's labels that its nodes have, as a label selector: `{zone: "in(a,b)"}`."""


class Scale(Section):
    workers: Annotated[Range, AfterValidator(_ordered)] = (1, 1)
    """Fewest and most workers, or one number for both; what fits the cluster runs. With pools, the sum of theirs."""
    resources: dict[str, PositiveFloat] = {"CPU": 1}
    """What Ray reserves for each worker, such as `{CPU: 4, GPU: 1}`."""
    pools: dict[str, Pool] = {}
    """Kinds of machines by a name of your own, mixed in one group; in place of `workers` and `resources`."""
    threads: PositiveInt | None = None
    """CPU threads a worker computes with (default: the whole CPUs it holds); another number may round differently."""

    @model_validator(mode="before")
    @classmethod
    def _sum_of_pools(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("pools") and not fields.get("workers"):
            with contextlib.suppress(ValidationError):  # told where the pool is checked
                pools = [Pool.model_validate(pool).workers for pool in fields["pools"].values()]
                return {**fields, "workers": [sum(fewest for fewest, _ in pools), sum(most for _, most in pools)]}
        return fields

    @model_validator(mode="after")
    def _consistent(self) -> Scale:
        sums = tuple(sum(pool.workers[end] for pool in self.pools.values()) for end in (0, 1))
        if self.pools and sums != self.workers:
            raise ValueError(f"the pools have {list(sums)} workers together, and workers is {list(self.workers)}: leave it out")
        if len({"GPU" in pool.resources for pool in self.pools.values()}) > 1:
            raise ValueError("pools with GPUs and pools without cannot work in one group")
        if self.workers[0] < 1:
            raise ValueError("at least one worker is needed")
        return self

    @property
    def all_pools(self) -> dict[str, Pool]:
        return self.pools or {"": Pool(workers=self.workers, resources=self.resources)}

    @property
    def worker_threads(self) -> int:
        return self.threads or max(1, int(min(pool.resources.get("CPU", 1) for pool in self.all_pools.values())))


class Fault(Section):
    max_restarts: NonNegativeInt = 8
    """Failures in a row, without a step done in between, after which a command gives up."""
    mirror_every: PositiveInt = 10
    """Steps between copies of every worker's state into another node's memory: at most so many are repeated."""
    wait_s: PositiveFloat = 1800
    """Seconds without enough workers after which a command gives up."""
    storage_wait_s: PositiveFloat = 120
    """Seconds for which the last checkpoint is tried again where storage fails."""


class Guard(Section):
    max_skipped: NonNegativeInt = 16
    """Micro-batches with a loss or gradient that is not finite that are left out before the run stops."""
    spike: PositiveFloat | None = None
    """Robust deviations above the running median from which on a step's loss is a spike, and its update is not made."""
    recheck_every: PositiveInt | None = 1000
    """Steps between rechecks: all workers compute a micro-batch once more, and one that gets other bits is left out."""


class Spec(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The run's name, and its folder's in `storage`."""
    seed: int = Field(default=1337, ge=0, lt=2**63)
    """Every random number of the run follows from it."""
    data: Data
    """What is learned from."""
    objective: Objective
    """What is hidden and predicted."""
    model: Model
    """The network's shape."""
    optimizer: Optimizer
    """How the weights move."""
    schedule: Schedule = Schedule()
    """How the learning rate moves."""
    train: Train
    """How long, in what steps, and what is recorded."""
    scale: Scale = Scale()
    """How many workers, on what; never changes the result."""
    fault: Fault = Fault()
    """What is done about failures; never changes the result."""
    guard: Guard = Guard()
    """What is done about bad numbers."""
    storage: str = Field(default="runs", min_length=1)
    """Folder of runs and prepared data: a local path, or any URL that pyarrow's filesystems take."""

    @property
    def samples_per_step(self) -> int:
        return self.train.micro_batches * self.train.micro_batch_size

    @property
    def tokens_per_step(self) -> int:
        """Predicted positions in a step of full samples."""
        return self.samples_per_step * self.model.context

    def identity(self) -> dict[str, Any]:
        """Every field that decides the result, flattened to dotted names: two runs are one where these are equal.

        Where the data lies is not among them.
        """
        return {name: value for name, value in flatten(self.model_dump(mode="json")).items() if not _FREE.match(name)}

    def fingerprint(self) -> str:
        """SHA-256 of the identity, 16 hexadecimal digits."""
        return digest(self.identity())[:16]

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=120)


_FREE = re.compile(
    r"(name|scale|fault|storage|guard\.(max_skipped|recheck_every)|train\.(evaluate_every|checkpoint_every|keep_checkpoints)"
    r"|data\.(max_bad_rows|sources\.\d+\.path|tokenizer\.path))\b"
)


def digest(value: object) -> str:
    """SHA-256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": [1]}}` as `{"a.b.0": 1}`."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {prefix: value}
    return {
        name: leaf for key, part in items for name, leaf in flatten(part, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """One phrase for each field that differs: `optimizer.lr was 0.004 and is 0.003`."""
    names = [*there, *(name for name in here if name not in there)]
    return [
        f"{name} was {there.get(name, 'not set')} and is {here.get(name, 'not set')}"
        for name in names
        if there.get(name) != here.get(name)
    ]


def nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
