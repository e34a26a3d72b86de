"""What the engine and an objective say to each other: the only module of the engine that an objective may import.

An objective answers three questions about a batch of unit sequences: what is shown, where we ask, what the answer is.
Its loss is a sum and a weight, never a mean: sums add up to the same loss however a batch is divided, means do not.
An objective is one class in one file, found by the entry point group `foundray.objectives`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from foundray.errors import InputError

if TYPE_CHECKING:
    from torch import Generator, Tensor

GROUP = "foundray.objectives"


@dataclass(frozen=True)
class Units:
    """A batch of unit sequences (B samples of T units), on the CPU or a GPU."""

    x: Tensor
    """[B, T] int64 token ids; padding is 0."""
    document: Tensor
    """[B, T] int64: which of the sample's documents a unit belongs to; attention stays inside one."""
    valid: Tensor
    """[B, T] bool: a real unit, not padding."""
    mixed: bool
    """Whether any sample holds more than one document."""

    def between(self, start: int | None, end: int | None) -> Units:
        """Positions [start, end) of every sequence."""
        return Units(self.x[:, start:end], self.document[:, start:end], self.valid[:, start:end], self.mixed)


@dataclass(frozen=True)
class Ask:
    """One question: what a head should answer, at which positions."""

    head: str
    """The head's name, which is its parameters' prefix."""
    target: Tensor
    """[B, T] int64: the right class at each position."""
    weight: Tensor
    """[B, T] bool: where we ask."""


@dataclass(frozen=True)
class Plan:
    """What an objective decided for one micro-batch."""

    units: Units
    """What the model is shown."""
    asks: tuple[Ask, ...]
    causal: bool
    """Whether a position sees only itself and what came before."""


class Objective(BaseModel, ABC):
    """Base of all objectives. Its fields are the options that `objective:` takes in a spec."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @abstractmethod
    def heads(self, vocabulary: int) -> dict[str, int]:
        """The heads that the model needs: name and number of classes."""

    @abstractmethod
    def plan(self, units: Units, generator: Generator) -> Plan:
        """Decide what is shown and asked, for samples of context + 1 units.

        A pure function: all chance comes from `generator`, which is seeded by the micro-batch.
        """

    @abstractmethod
    def loss(self, prediction: Tensor, ask: Ask) -> tuple[Tensor, Tensor]:
        """Sum of the losses in nats, and their number, for predictions [B, T, classes]."""


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
