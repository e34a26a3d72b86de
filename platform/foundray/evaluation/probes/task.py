"""What every task is like, and what judging gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from statistics import mean, stdev
from typing import Any

from pydantic import PositiveInt

from foundray.evaluation.encoder import Layer, Pool, UnitsPool
from foundray.runs.run import Run
from foundray.spec.section import Section


@dataclass(frozen=True)
class Judgement:
    """One measure, three times: by something simple, by the network untrained, by the run."""

    run: str
    """The run's folder."""
    measure: str
    """What was measured: `accuracy`, `mse`."""
    higher_is_better: bool
    floor: list[float]
    """By raw features; one value where no chance is in it."""
    random: list[float]
    """By untrained encoders of the same shape, one a seed."""
    ours: list[float]
    """By the run's encoder."""
    facts: dict[str, Any] = field(default_factory=dict)
    """How many examples, and what else was chosen on the way."""

    def table(self) -> str:
        """Three columns, each the mean and the standard deviation over seeds, and the facts."""
        head = f"{self.measure} ({'higher' if self.higher_is_better else 'lower'} is better)"
        columns = {"floor": self.floor, "random": self.random, "ours": self.ours}
        texts = [told(values) for values in columns.values()]
        wide = max(map(len, texts)) + 3
        names, values = "".join(f"{name:<{wide}}" for name in columns), "".join(f"{value:<{wide}}" for value in texts)
        facts = ", ".join(f"{name} {value}" for name, value in self.facts.items())
        return f"{'':{len(head)}}  {names.rstrip()}\n{head}  {values.rstrip()}\n{facts}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def told(values: list[float]) -> str:
    """Mean and standard deviation."""
    digits = 4 if abs(mean(values)) < 10 else 1
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


class Task(Section, ABC):
    """Base of all kinds of tasks: its fields are what the task's file takes."""

    kind: str
    """What the run is judged by."""
    seeds: PositiveInt = 3
    """Untrained encoders, and draws where there is chance: the spread is over them."""

    @abstractmethod
    def judge(self, run: Run) -> Judgement:
        """Raises InputError where the task does not fit the run or its data."""


class FeatureTask(Task):
    """Base of those that judge by frozen features."""

    pool: Pool = "mean"
    """How the hidden states of a sample become its features: `mean`, `mean_std`, `last`, `flatten`, or `class`: the class
    unit's, or where there is none and the objective looks both ways, the opening token's of a document."""
    layer: Layer = "last"
    """How many layers deep to look: 0 (embedded units) to the depth; `last`, after the final norm; or `all` of them."""
    floor: UnitsPool | None = None
    """How raw values become the floor's features (default: as `pool`, or `mean` for `class`); of ids, their counts are
    taken."""

    @property
    def floor_pool(self) -> UnitsPool:
        return self.floor or ("mean" if self.pool == "class" else self.pool)
