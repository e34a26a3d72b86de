"""The interface between the engine, modalities and objectives: the only package of the engine that the other two may import.

A modality turns raw files into rows when data is prepared, and decodes and augments rows into sequences of units when they
are read. An objective decides what the model sees of such a sequence, what it must predict, and where; the targets may be a
teacher's (a moving average of the model). Both work sample by sample, with NumPy, in the data workers, and draw random
numbers only from the sample's own generator. A loss is a sum and a count, never a mean: sums add up to the same loss however
a batch is divided, means do not.
Each is one class in one file, found by the entry point groups `foundray.modalities` and `foundray.objectives`.

The package is typed, and importing it needs NumPy and pydantic alone. Losses import torch when they are called, and
`foundray.contract.parquet_rows`, which needs pyarrow, is imported on its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from foundray.contract.losses import cross_entropy as cross_entropy
from foundray.contract.losses import squared_error as squared_error
from foundray.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

CONTRACT = 2
"""Version of this interface: raised whenever a modality or an objective written for the one before would no longer work."""
OBJECTIVES, MODALITIES = "foundray.objectives", "foundray.modalities"
RENAMED = {"hides": "masks", "lesson": "teacher_targets"}
"""What earlier versions called otherwise, and nothing would miss: a class that defines it would compute something else."""


@dataclass(frozen=True)
class Kind:
    """One of the kinds of units that take turns in a mixed sequence."""

    name: str
    width: int
    """Number of values in such a unit; the rest of its K values are 0."""
    discrete: bool = False
    """Whether the values are a one-hot class."""


@dataclass(frozen=True)
class UnitShape:
    """The form of a modality's units."""

    classes: int = 0
    """Number of ids, which lie below it; an objective's extra ids start here. 0 for values."""
    width: int = 0
    """Values per unit; 0 for ids."""
    grid: tuple[int, int] | None = None
    """Rows and columns, if the units lie in a plane; position embeddings are then added to the units."""
    kinds: tuple[Kind, ...] = ()
    """The kinds of units, if several take turns, always in this order."""
    times: int = 0
    """For several kinds: if not 0, a unit's last value is its time, a whole number below this."""


@dataclass(frozen=True)
class Units:
    """One sample: a sequence of T units."""

    x: np.ndarray
    """[T] int64 ids, or [T, K] float32 values."""
    document: np.ndarray | None = None
    """[T] int64: the document that a unit belongs to, if the sample has several; attention stays inside one."""
    shape: UnitShape = UnitShape()
    """Their form; planners set it for objectives."""

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, span: slice) -> Units:
        return replace(self, x=self.x[span], document=None if self.document is None else self.document[span])

    @property
    def classes(self) -> int:
        return self.shape.classes


WIDTH = 0
"""In place of a head's number of outputs: the width of the model."""


@dataclass(frozen=True)
class Target:
    """What a head should predict, and at which units."""

    head: str
    """The head's name, which is its parameters' prefix."""
    values: np.ndarray | None
    """[T] int64 classes or [T, outputs] float32 values, one per unit; None if a teacher gives the targets."""
    loss_mask: np.ndarray | None = None
    """[T] bool: the units whose loss counts; None for all."""


@dataclass(frozen=True)
class Plan:
    """What the model sees of one sample, and what it must predict."""

    units: Units
    """The model's input: at most `model.context` units."""
    targets: tuple[Target, ...]
    masked: np.ndarray | None = None
    """Masked units, [T] bool: the model sees its learned mask vector in their place."""
    visible: np.ndarray | None = None
    """Visible units, [S] int64, ascending: the encoder sees only these; a predictor answers at all T."""


class Unreadable(Exception):
    """A file, or a part of one, that cannot be used, and why. It is put into quarantine.

    `lost` counts what is missing; `unit` is the singular noun for it (`row`, `case`, `member`).
    """

    def __init__(self, reason: str, lost: int = 1, unit: str = "row"):
        super().__init__(reason)
        self.lost, self.unit = lost, unit


class Modality(BaseModel, ABC):
    """Base of all modalities. Its fields are the options that `data.modality:` takes in a spec."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arithmetic: ClassVar[int] = 1
    """Version of what it computes: raised whenever the same files would give other units, so that no run mixes versions."""
    arithmetic_history: ClassVar[Mapping[int, str]] = {}
    """For each version above 1, what it changed, as a clause: `values are standardised in float64`."""
    gives: ClassVar[str]
    """What its units are: `tokens`, or another word that objectives list in `takes`."""
    alphabet: ClassVar[str | None] = None
    """For tokens: the characters of the vocabulary, if they do not depend on the data."""
    public: ClassVar[tuple[str, ...]] = ()
    """Publicly available models of such data, which `foundray plan` suggests as a start. Text needs none: its tokenizer
    shows what a model covers."""

    def augment(self, units: Units, rng: np.random.Generator) -> Units:
        """Augment a sample of tokens for training."""
        return units


class Values(Modality):
    """Base of modalities whose units are vectors of values. Every row is a sample."""

    endings: ClassVar[tuple[str, ...]]
    """Name endings, in lower case, of the files to take from a folder."""

    @property
    @abstractmethod
    def shape(self) -> UnitShape:
        """The form of its units."""

    @abstractmethod
    def rows(self, name: str, content: bytes, length: int) -> Iterator[tuple[str, dict[str, Any] | Unreadable]]:
        """Yield (position, row) for each sample of up to `length` units, or why there is none. Raises Unreadable.

        Media stay encoded in a row: values are bytes, numbers or lists of numbers, the same kinds in every row.
        """

    @abstractmethod
    def units(self, row: dict[str, Any], length: int, rng: np.random.Generator | None) -> Units:
        """Decode a row, and augment it if there is an `rng`; validation has none."""

    def picture(self, x: np.ndarray) -> np.ndarray | None:
        """What units [T, K] look like, to be shown; NaN stays NaN.

        [height, width] or [height, width, 3], from 0 to 1, for a picture; [N] for a curve; None for what cannot be looked at.
        """
        return None


class Objective(BaseModel, ABC):
    """Base of all objectives. Its fields are the options that `objective:` takes in a spec."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arithmetic: ClassVar[int] = 1
    """Version of what it computes: raised whenever the same units would give another plan or loss, so that no run mixes
    versions."""
    arithmetic_history: ClassVar[Mapping[int, str]] = {}
    """For each version above 1, what it changed, as a clause."""
    takes: ClassVar[tuple[str, ...]] = ("tokens",)
    """What a modality may give (`gives`) for this objective to learn from."""
    causal: ClassVar[bool] = True
    """Whether a unit sees only itself and the units before it."""
    masks: ClassVar[bool] = False
    """Whether plans mask units: the model then has a mask vector."""
    predicts: ClassVar[bool] = False
    """Whether the encoder sees only the visible units, and a predictor (`model.predictor`) answers for all."""
    continues: ClassVar[bool] = False
    """Whether the only head predicts the next unit at each unit, so that the model can continue a sequence."""
    scores: ClassVar[bool] = False
    """Whether the loss is the data's negative log-likelihood, unit by unit, so that bits per byte are meaningful."""
    loss_unit: ClassVar[str] = "nats per unit"
    """Unit of the loss, as it follows a number in messages: `nats per token`, `squared error per value`."""
    teaches: ClassVar[bool] = False
    """Whether a teacher, a moving average of the model, gives the targets: see `teacher_targets`, `momentum`."""
    couples: ClassVar[bool] = False
    """Whether a sample is two neighbouring rows of a micro-batch, augmented independently, which share one loss. Heads then
    answer once per row, from the mean over its units, and the loss depends on which samples share a micro-batch."""
    separable: ClassVar[bool] = False
    """Whether the loss is a sum over units, and each unit's part follows from its own answer, target and loss mask, so that it
    can be computed for some units after others: see `train.loss_chunk`. A class that has a `loss` of its own says so itself."""

    rebuilds: ClassVar[bool] = False
    """Whether the heads' answers give back the input's values, so that they can be looked at: see `rebuilt`."""

    becomes: ClassVar[str | None] = None
    """The stock Hugging Face class that `foundray export` writes for such a model: `causal_lm`, `masked_lm`, `mae` or
    `decision_transformer` (see `foundray.exports.forms`); None if no stock class computes the same."""

    extra_stand_for_text: ClassVar[bool] = False
    """Whether `extra_tokens` stand in a text for parts of it that are hidden, and so for the space before such a part."""
    prompts: ClassVar[Mapping[str, str]] = {}
    """How to ask a trained model for what it learned by means of `extra_tokens`: a phrase, and the layout of the prompt."""

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        of_loss = next((base for base in cls.__mro__ if "loss" in vars(base) or "separable" in vars(base)), cls)
        if "separable" not in vars(of_loss):
            cls.separable = False  # what it inherits was said of another loss

    @property
    def extra_tokens(self) -> tuple[str, ...]:
        """Names of the ids that plans use beyond the data's own, in order, such as sentinels."""
        return ()

    @property
    def extra_ids(self) -> int:
        """Number of extra ids."""
        return len(self.extra_tokens)

    def reads(self, context: int) -> int:
        """Units of data per sample, for plans of at most `context` units. A sample also has the next one's first unit."""
        return context

    @abstractmethod
    def heads(self, shape: UnitShape) -> Mapping[str, int | tuple[int, ...]]:
        """Heads that the model needs for units of this shape, whose classes include the objective's own.

        By name: the number of outputs of a matrix, or of each layer of a network with ReLU between layers. Raises ValueError
        for a shape that the objective cannot learn from.
        """

    @abstractmethod
    def plan(self, units: Units, rng: np.random.Generator) -> Plan:
        """Decide what the model sees and predicts, for a sample of up to `reads(context)` + 1 units.

        A pure function: `rng`, its only source of random numbers, is seeded by (seed, sample's position in the order).
        """

    @abstractmethod
    def loss(self, prediction: Tensor, target: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the losses, such as nats, and their number, over a micro-batch: their mean is in `loss_unit`.

        `prediction` is a head's output [B, T, outputs]; `target` [B, T] or [B, T, outputs]; `loss_mask` [B, T] bool. If rows
        are coupled, `prediction` and `target` are the same tensor [B, 1, outputs], with the two rows of a sample next to each
        other.
        """

    def rebuilt(self, x: np.ndarray, answers: Mapping[str, np.ndarray], asked: np.ndarray) -> np.ndarray:
        """The units [T, K] of a sample as the model predicts them; those that it need not predict as they are.

        `x` [T, K] are its units, `answers` [T, outputs] its heads' by name, `asked` [T] bool the plan's loss mask.
        """
        raise NotImplementedError

    def teacher_targets(self, states: Sequence[Tensor]) -> Tensor:
        """Targets [B, T, D], from the teacher's hidden states after each layer, [B, T, D] each; the teacher sees all units."""
        raise NotImplementedError

    def momentum(self, progress: float) -> float:
        """Fraction of the teacher's weights that an update keeps, at `progress` (0 to 1) of the run."""
        raise NotImplementedError


def installed(group: str) -> list[str]:
    """Names installed in an entry point group; nothing is imported."""
    return sorted(entry_points(group=group).names)


def load_objective(kind: str, options: dict[str, object]) -> Objective:
    """Build an objective. Raises InputError for an option that it does not have, or if its package does not work."""
    objective: Objective = _load(OBJECTIVES, "objective", kind, options)
    return objective


def load_modality(kind: str, options: dict[str, object]) -> Modality:
    """Build a modality. Raises InputError for an option that it does not have, or if its package does not work."""
    modality: Modality = _load(MODALITIES, "data.modality", kind, options)
    return modality


def pairs() -> dict[str, list[str]]:
    """Objectives that can learn from each installed modality."""
    takes = {name: objective.takes for name, objective in _working(OBJECTIVES)}
    gives = {name: modality.gives for name, modality in _working(MODALITIES)}
    return {name: [objective for objective, taken in takes.items() if given in taken] for name, given in gives.items()}


def endings() -> dict[str, tuple[str, ...]]:
    """Name endings of the files of each installed modality that has files of its own."""
    return {name: modality.endings for name, modality in _working(MODALITIES) if issubclass(modality, Values)}


@cache
def class_of(group: str, kind: str) -> Any:
    """Class installed under a name. Raises InputError if its package does not work with this version of the interface.

    Cached: looking through all packages takes milliseconds.
    """
    point = entry_points(group=group)[kind]
    package = point.dist.name if point.dist else point.module
    otherwise = f"Foundray's CHANGELOG.md says what contract {CONTRACT} calls otherwise"
    try:
        found = point.load()
    except Exception as error:  # of any kind: it is a third party's
        why = " ".join(str(error).split())
        raise InputError(f"{kind} of the package {package} cannot be imported ({why}): {otherwise}") from error
    for old, new in RENAMED.items():
        if any(old in vars(base) for base in found.__mro__):
            raise InputError(f"{kind} of the package {package} defines {old}, which is {new} now: {otherwise}")
    return found


def _working(group: str) -> Iterator[tuple[str, Any]]:
    """Names and classes of those that can be used; `foundray doctor` reports the others."""
    for name in installed(group):
        with suppress(InputError):
            yield name, class_of(group, name)


def _load(group: str, section: str, kind: str, options: dict[str, object]) -> Any:
    found: type[BaseModel] = class_of(group, kind)
    try:
        return found.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        known = ", ".join(found.model_fields) or "none"
        where = ".".join([section, *map(str, first["loc"])])
        raise InputError(f"{where}: {first['msg']}; {kind} has these options: {known}") from None
