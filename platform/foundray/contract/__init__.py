"""What the engine, modalities and objectives say to each other: the only module of the engine that the others may import.

A modality turns raw files into rows when data is prepared, and rows into sequences of units when they are read: there it
decodes and augments. An objective answers three questions about a sequence of units: what is shown, where we ask, what the
answer is (or leaves it to a teacher: a moving average of the model). Both work sample by sample, with NumPy, in the data
workers; all chance comes from a generator of the sample's own. A loss is a sum and a count, never a mean: sums add up to
the same loss however a batch is divided, means do not.
Each is one class in one file, found by the entry point groups `foundray.modalities` and `foundray.objectives`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from foundray.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

OBJECTIVES, MODALITIES = "foundray.objectives", "foundray.modalities"


@dataclass(frozen=True)
class Kind:
    """One of the kinds of units that take turns in a mixed sequence."""

    name: str
    width: int
    """Values that such a unit has; the others of its K values are 0."""
    discrete: bool = False
    """Whether the values are a class, as one 1 among zeros."""


@dataclass(frozen=True)
class UnitShape:
    """What the units of a modality are like."""

    classes: int = 0
    """Ids are below this; an objective's extra ids start here. 0 for values."""
    width: int = 0
    """Values a unit; 0 for ids."""
    grid: tuple[int, int] | None = None
    """Rows and columns of the units, where they lie in a plane; their places are then added to what they are."""
    kinds: tuple[Kind, ...] = ()
    """Where units of several kinds take turns, always in this order."""
    times: int = 0
    """Of several kinds: where not 0, a unit's last value is its time, a whole number below this."""


@dataclass(frozen=True)
class Units:
    """One sample: a sequence of T units."""

    x: np.ndarray
    """[T] int64 ids, or [T, K] float32 values."""
    document: np.ndarray | None = None
    """[T] int64: which of the sample's documents a unit belongs to, where there are several; attention stays inside one."""
    shape: UnitShape = UnitShape()
    """What they are like, as planners tell objectives."""

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, span: slice) -> Units:
        return replace(self, x=self.x[span], document=None if self.document is None else self.document[span])

    @property
    def classes(self) -> int:
        return self.shape.classes


WIDTH = 0
"""In place of a head's number of outputs: as many as the model is wide."""


@dataclass(frozen=True)
class Ask:
    """One question: what a head should answer, at which units."""

    head: str
    """The head's name, which is its parameters' prefix."""
    target: np.ndarray | None
    """[T] int64: the right class at each unit; or [T, outputs] float32: the right values; None where a teacher tells."""
    where: np.ndarray | None = None
    """[T] bool: where we ask; None for everywhere."""


@dataclass(frozen=True)
class Plan:
    """What an objective decided for one sample."""

    units: Units
    """What the model is shown: at most `model.context` units."""
    asks: tuple[Ask, ...]
    hidden: np.ndarray | None = None
    """[T] bool: units that are shown as the model's learned mask vector."""
    keep: np.ndarray | None = None
    """[S] int64, ascending: only these units are shown; a predictor answers at all T."""


class Unreadable(Exception):
    """A file, or a part of one, that cannot be used, and why: it is put into quarantine.

    `lost` counts what is missing, in `unit`s: the noun, in the singular, for what was lost (`row`, `case`, `member`).
    """

    def __init__(self, reason: str, lost: int = 1, unit: str = "row"):
        super().__init__(reason)
        self.lost, self.unit = lost, unit


class Modality(BaseModel, ABC):
    """Base of all modalities. Its fields are the options that `data.modality:` takes in a spec."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arithmetic: ClassVar[int] = 1
    """Version of what it computes: raised whenever the same files give other units, so that no run mixes the two."""
    arithmetic_history: ClassVar[Mapping[int, str]] = {}
    """By version above 1, what it changed, as a clause: `values are standardised in float64`."""
    gives: ClassVar[str]
    """What its units are: `tokens`, or a word that objectives `take`."""
    alphabet: ClassVar[str | None] = None
    """Of tokens: the letters that there are, where that is no matter of the data."""
    public: ClassVar[tuple[str, ...]] = ()
    """Models of such data that anyone can have: `foundray plan` names them to who might start from one. Of text none are
    needed, since there a tokenizer tells what a model covers."""

    def augment(self, units: Units, rng: np.random.Generator) -> Units:
        """Tokens as they are read for training."""
        return units


class Values(Modality):
    """Base of modalities whose units are vectors of values. Every row is a sample."""

    endings: ClassVar[tuple[str, ...]]
    """Of the names of files that are taken from a folder, in lower case."""

    @property
    @abstractmethod
    def shape(self) -> UnitShape:
        """What its units are like."""

    @abstractmethod
    def rows(self, name: str, content: bytes, length: int) -> Iterator[tuple[str, dict[str, Any] | Unreadable]]:
        """(position, row) of a file's samples of up to `length` units, or why there is none. Raises Unreadable.

        Media stay encoded in a row: values are bytes, numbers or lists of numbers, the same kinds in every row.
        """

    @abstractmethod
    def units(self, row: dict[str, Any], length: int, rng: np.random.Generator | None) -> Units:
        """Decode a row, and augment it where there is a `chance`: not for validation."""


class Objective(BaseModel, ABC):
    """Base of all objectives. Its fields are the options that `objective:` takes in a spec."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arithmetic: ClassVar[int] = 1
    """Version of what it computes: raised whenever the same units give another plan or loss, so that no run mixes the two."""
    arithmetic_history: ClassVar[Mapping[int, str]] = {}
    """By version above 1, what it changed, as a clause."""
    takes: ClassVar[tuple[str, ...]] = ("tokens",)
    """What modalities give that this objective can learn from."""
    causal: ClassVar[bool] = True
    """Whether a unit sees only itself and what came before."""
    hides: ClassVar[bool] = False
    """Whether plans have hidden units: the model then has a mask vector."""
    predicts: ClassVar[bool] = False
    """Whether plans keep some units only, so that a predictor (`model.predictor`) answers for all."""
    continues: ClassVar[bool] = False
    """Whether the one head tells the next unit at each, so that the model can continue a sequence."""
    scores: ClassVar[bool] = False
    """Whether the loss is the data's own negative log-likelihood, unit by unit, so that bits a byte mean something."""
    teaches: ClassVar[bool] = False
    """Whether a teacher, whose weights are a moving average of the model's, gives the targets: see `lesson`, `momentum`."""
    couples: ClassVar[bool] = False
    """Whether a sample is two rows of a micro-batch, augmented apart and next to each other, of which the loss is taken
    together, and heads answer once a row, from the mean over its units. The loss then depends on who shares a micro-batch."""

    becomes: ClassVar[str | None] = None
    """What `foundray export` makes of a model that learned by it: `causal_lm`, `masked_lm`, `mae` or `decision_transformer` (a
    stock class of Hugging Face's, see `foundray.exports.forms`); None where no stock class computes the same."""

    @property
    def extra_tokens(self) -> tuple[str, ...]:
        """Names of the ids beyond the data's own that plans use, in order, such as those of sentinels."""
        return ()

    @property
    def extra_ids(self) -> int:
        """How many of these there are."""
        return len(self.extra_tokens)

    def reads(self, context: int) -> int:
        """Units of data in a sample (and one more, the next one's first), for plans of at most `context` units."""
        return context

    @abstractmethod
    def heads(self, shape: UnitShape) -> Mapping[str, int | tuple[int, ...]]:
        """The heads that the model needs, for units of this shape (its classes include the objective's own): name and number
        of outputs of a matrix, or of each layer of a network with ReLU between them. Raises ValueError for a shape that it
        cannot learn from.
        """

    @abstractmethod
    def plan(self, units: Units, rng: np.random.Generator) -> Plan:
        """Decide what is shown and asked, for a sample of up to `reads(context)` + 1 units.

        A pure function: all chance comes from `chance`, which is seeded by (seed, sample's place in the order).
        """

    @abstractmethod
    def loss(self, prediction: Tensor, target: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the losses in nats, and their number, over a micro-batch.

        `prediction` is a head's, [B, T, outputs]; `target` [B, T] or [B, T, outputs]; `where` [B, T] bool: where we ask.
        Where rows are coupled, `prediction` is [B, 1, outputs], the two rows of a sample next to each other, and `target` is
        it, too.
        """

    def teacher_targets(self, states: Sequence[Tensor]) -> Tensor:
        """The targets, [B, T, D], from what a teacher that sees all units has after each layer, [B, T, D] each."""
        raise NotImplementedError

    def momentum(self, progress: float) -> float:
        """Part of the teacher's weights that stays in an update, when `progress` (0 to 1) of the run is done."""
        raise NotImplementedError


def cross_entropy(prediction: Tensor, target: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and count of the losses of classes; see `Objective.loss`."""
    from torch.nn import functional as F  # not above: data workers plan without torch

    answers = target.masked_fill(~where, -100).flatten()
    loss = F.cross_entropy(prediction.flatten(0, 1).float(), answers, ignore_index=-100, reduction="sum")
    return loss, where.sum()


def squared_error(prediction: Tensor, target: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and count of the units' mean squared errors; see `Objective.loss`."""
    errors = (prediction.float() - target).pow(2).mean(-1)
    return (errors * where).sum(), where.sum()


def installed(group: str) -> list[str]:
    """The names of what is installed of a group; none is imported."""
    return sorted(entry_points(group=group).names)


def load_objective(kind: str, options: dict[str, object]) -> Objective:
    """Raises InputError for an option that the objective does not have."""
    objective: Objective = _load(OBJECTIVES, "objective", kind, options)
    return objective


def load_modality(kind: str, options: dict[str, object]) -> Modality:
    """Raises InputError for an option that the modality does not have."""
    modality: Modality = _load(MODALITIES, "data.modality", kind, options)
    return modality


def pairs() -> dict[str, list[str]]:
    """Of each installed modality, the objectives that can learn from it."""
    takes = {name: entry_points(group=OBJECTIVES)[name].load().takes for name in installed(OBJECTIVES)}
    gives = {name: entry_points(group=MODALITIES)[name].load().gives for name in installed(MODALITIES)}
    return {name: [objective for objective, taken in takes.items() if given in taken] for name, given in gives.items()}


def endings() -> dict[str, tuple[str, ...]]:
    """Of each installed modality that has files of its own, the endings of their names."""
    found = {name: entry_points(group=MODALITIES)[name].load() for name in installed(MODALITIES)}
    return {name: modality.endings for name, modality in found.items() if issubclass(modality, Values)}


@cache
def _class(group: str, kind: str) -> type[BaseModel]:
    """What is installed by a name; looking through all packages takes milliseconds."""
    found: type[BaseModel] = entry_points(group=group)[kind].load()
    return found


def _load(group: str, section: str, kind: str, options: dict[str, object]) -> Any:
    found = _class(group, kind)
    try:
        return found.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        known = ", ".join(found.model_fields) or "none"
        where = ".".join([section, *map(str, first["loc"])])
        raise InputError(f"{where}: {first['msg']}; {kind} has these options: {known}") from None
