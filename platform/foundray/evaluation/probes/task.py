"""Base classes of tasks, and the judgement that a task returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from statistics import mean, stdev
from typing import Any

from pydantic import PositiveInt

from foundray.evaluation.encoder import Layer, Pool, UnitsPool
from foundray.runs.run import Run
from foundray.spec.section import Section
from foundray.wording.shown import Shown


@dataclass(frozen=True)
class Judgement(Shown):
    """One measure for a simple baseline, for the untrained network and for the run."""

    run: str
    """The run's folder."""
    measure: str
    """Name of the measure: `accuracy`, `mse`."""
    higher_is_better: bool
    floor: list[float]
    """Values of the raw features; one value if no randomness is involved."""
    random: list[float]
    """Values of untrained encoders of the same shape, one per seed."""
    ours: list[float]
    """Values of the run's encoder."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Numbers of examples, and choices made along the way."""

    def table(self) -> str:
        """Three columns, each the mean and the standard deviation over seeds, and the facts."""
        head = f"{self.measure} ({'higher' if self.higher_is_better else 'lower'} is better)"
        columns = {"floor": self.floor, "random": self.random, "ours": self.ours}
        texts = [mean_and_deviation(values) for values in columns.values()]
        width = max(map(len, texts)) + 3
        names, values = "".join(f"{name:<{width}}" for name in columns), "".join(f"{value:<{width}}" for value in texts)
        facts = ", ".join(f"{name} {value}" for name, value in self.facts.items())
        return f"{'':{len(head)}}  {names.rstrip()}\n{head}  {values.rstrip()}\n{facts}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def mean_and_deviation(values: list[float]) -> str:
    """Format the mean and standard deviation of the values."""
    digits = 4 if abs(mean(values)) < 10 else 1
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


class Task(Section, ABC):
    """Base of all kinds of tasks; its fields are those of the task's file."""

    kind: str
    """What the run is judged by."""
    seeds: PositiveInt = 3
    """Number of untrained encoders, and of random draws if there are any; the spread is over them."""

    @abstractmethod
    def judge(self, run: Run) -> Judgement:
        """Judge the run. Raises InputError if the task does not fit the run or its data."""


class FeatureTask(Task):
    """Base of tasks that judge by frozen features."""

    pool: Pool = "mean"
    """How a sample's hidden states become its features: `mean`, `mean_std`, `last`, `flatten`, or `class` (the class unit's
    state; without one, if the objective is bidirectional, that of a document's opening token)."""
    layer: Layer = "last"
    """The layer whose output to take: 0 (embedded units) to the depth; `last`, after the final norm; or `all` of them."""
    floor: UnitsPool | None = None
    """How raw values become the floor's features (default: as `pool`, or `mean` for `class`); for ids, their frequencies are
    used."""

    @property
    def floor_pool(self) -> UnitsPool:
        return self.floor or ("mean" if self.pool == "class" else self.pool)
