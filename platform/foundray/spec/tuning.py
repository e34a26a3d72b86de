"""How hyperparameters are searched for, on small proxies of the run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from foundray.spec.section import Section

Value = bool | int | FiniteFloat | str | None


class RangeConfig(Section):
    """The values that a field may take: exactly one of the three is given."""

    log_uniform: tuple[PositiveFloat, PositiveFloat] | None = None
    """Lowest and highest, drawn evenly in the logarithm."""
    uniform: tuple[FiniteFloat, FiniteFloat] | None = None
    """Lowest and highest, drawn evenly."""
    choice: Annotated[list[Value], Field(min_length=1)] | None = None
    """These values."""

    @model_validator(mode="after")
    def _one_of_three(self) -> RangeConfig:
        given = [name for name in RangeConfig.model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give one of log_uniform: [low, high], uniform: [low, high], choice: [...] ({len(given)} are given)"
            )
        if (bounds := self.bounds) and bounds[0] >= bounds[1]:
            raise ValueError(f"the lowest comes first: [{bounds[1]}, {bounds[0]}]")
        return self

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Lowest and highest; None for a choice."""
        return self.log_uniform or self.uniform

    @property
    def ends(self) -> list[Value]:
        """Values that show whether the others are possible: the bounds, or every choice."""
        return list(self.choice if self.choice is not None else self.bounds or ())


class ProxyConfig(Section):
    width: PositiveInt | None = None
    """Width of the proxies (default: the model's `base_width`, or about a quarter of its width)."""
    depth: PositiveInt | None = None
    """Layers of the proxies (default: the model's `base_depth`, or half its depth)."""
    steps: PositiveInt | None = None
    """Steps of a proxy that is not stopped early (default: as many as the budget allows, at most the run's)."""


class TuneConfig(Section):
    space: dict[str, RangeConfig] = Field(default={})
    """What is searched: fields by their dotted names (default: the learning rate, and the second of the betas)."""
    sampler: Literal["optuna", "random", "grid"] = "optuna"
    """Optuna's tree of Parzen estimators, random draws, or all combinations of choices."""
    trials: PositiveInt = 24
    """Trials at most: fewer, where the budget would leave each too few steps. The first one has the spec's own values, unless
    a grid is searched."""
    budget: PositiveFloat = 0.07
    """What search and ladder may cost together, as a share of the full run's FLOPs."""
    proxy: ProxyConfig = ProxyConfig()
    """How proxies are smaller than the run."""
    rungs: PositiveInt = 3
    """How often a trial is judged: at the end, and whenever it had a `reduction`-th of the tokens until then (ASHA). 1: only
    at the end."""
    reduction: int = Field(default=3, ge=2)
    """One of so many trials goes on from a rung to the next."""
    metric: Literal["val_loss", "loss"] = "val_loss"
    """What is made small: the loss over a part of the validation split, or the training loss of the last tenth of the steps."""
    judged_tokens: PositiveInt | None = None
    """Units of the validation split that a trial is judged by, about; the same ones for all (default: by its length)."""
    horizon: NonNegativeFloat = 0.32
    """Power of the tokens' ratio by which a learning rate that was found falls on its way to the longer run (Bjorck et al.
    2025)."""
    ladder: NonNegativeFloat = Field(default=0.4, lt=1)
    """Share of the budget for runs of several sizes with the values found, which forecast the full run's loss; 0: none."""
