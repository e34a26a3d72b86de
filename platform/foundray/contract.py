"""What the engine and an objective say to each other: the only module of the engine that an objective may import.

An objective answers three questions about a sequence of units: what is shown, where we ask, what the answer is. It plans
sample by sample, with NumPy, in the data workers; all chance comes from a generator of the sample's own. Its loss is a sum
and a count, never a mean: sums add up to the same loss however a batch is divided, means do not.
An objective is one class in one file, found by the entry point group `foundray.objectives`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from foundray.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

GROUP = "foundray.objectives"


@dataclass(frozen=True)
class Units:
    """One sample: a sequence of T units."""

    x: np.ndarray
    """[T] int64 ids."""
    document: np.ndarray
    """[T] int64: which of the sample's documents a unit belongs to; attention stays inside one."""
    classes: int
    """Ids of the data are below this. An objective's extra ids start here."""

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, span: slice) -> Units:
        return replace(self, x=self.x[span], document=self.document[span])


@dataclass(frozen=True)
class Ask:
    """One question: what a head should answer, at which units."""

    head: str
    """The head's name, which is its parameters' prefix."""
    target: np.ndarray
    """[T] int64: the right class at each unit."""
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


class Objective(BaseModel, ABC):
    """Base of all objectives. Its fields are the options that `objective:` takes in a spec."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    causal: ClassVar[bool] = True
    """Whether a unit sees only itself and what came before."""
    hides: ClassVar[bool] = False
    """Whether plans have hidden units: the model then has a mask vector."""
    continues: ClassVar[bool] = False
    """Whether the one head tells the next unit at each, so that the model can continue a sequence."""
    scores: ClassVar[bool] = False
    """Whether the loss is the data's own negative log-likelihood, unit by unit, so that bits a byte mean something."""

    @property
    def extra_ids(self) -> int:
        """Ids beyond the data's own that plans use, such as sentinels."""
        return 0

    def reads(self, context: int) -> int:
        """Units of data in a sample (and one more, the next one's first), for plans of at most `context` units."""
        return context

    @abstractmethod
    def heads(self, classes: int) -> dict[str, int]:
        """The heads that the model needs: name and number of outputs, where ids with the extra ones are below `classes`."""

    @abstractmethod
    def plan(self, units: Units, chance: np.random.Generator) -> Plan:
        """Decide what is shown and asked, for a sample of up to `reads(context)` + 1 units.

        A pure function: all chance comes from `chance`, which is seeded by (seed, sample's place in the order).
        """

    @abstractmethod
    def loss(self, prediction: Tensor, target: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the losses in nats, and their number, over a micro-batch.

        `prediction` is a head's, [B, T, outputs]; `target` [B, T]; `where` [B, T] bool tells where we ask.
        """


def cross_entropy(prediction: Tensor, target: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and count of the losses of classes; see `Objective.loss`."""
    from torch.nn import functional as F  # not above: data workers plan without torch

    answers = target.masked_fill(~where, -100).flatten()
    loss = F.cross_entropy(prediction.flatten(0, 1).float(), answers, ignore_index=-100, reduction="sum")
    return loss, where.sum()


def objective_names() -> list[str]:
    """The installed objectives; none is imported."""
    return sorted(entry_points(group=GROUP).names)


def load_objective(kind: str, options: dict[str, object]) -> Objective:
    """Raises InputError for an option that the objective does not have."""
    objective: type[Objective] = entry_points(group=GROUP)[kind].load()
    try:
        return objective.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        known = ", ".join(objective.model_fields) or "none"
        where = ".".join(["objective", *map(str, first["loc"])])
        raise InputError(f"{where}: {first['msg']}; {kind} has these options: {known}") from None
