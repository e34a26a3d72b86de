"""Search for hyperparameters, on small proxies of the run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from foundray.spec.section import Section

Value = bool | int | FiniteFloat | str | None


class RangeConfig(Section):
    """Values that a field may take. Give exactly one of the three."""

    log_uniform: tuple[PositiveFloat, PositiveFloat] | None = None
    """Lower and upper bound, sampled uniformly in the logarithm."""
    uniform: tuple[FiniteFloat, FiniteFloat] | None = None
    """Lower and upper bound, sampled uniformly."""
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
            raise ValueError(f"the lower bound comes first: [{bounds[1]}, {bounds[0]}]")
        return self

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Lower and upper bound; None for a choice."""
        return self.log_uniform or self.uniform

    @property
    def ends(self) -> list[Value]:
        """Values to check in place of all: the bounds, or every choice."""
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
    """Fields to search, by dotted name (default: the learning rate and the second of the betas)."""
    sampler: Literal["optuna", "random", "grid"] = "optuna"
    """Optuna's tree of Parzen estimators, random draws, or all combinations of choices."""
    trials: PositiveInt = 24
    """Maximum number of trials; fewer if the budget would leave each too few steps. The first has the spec's own values, except
    in a grid."""
    budget: PositiveFloat = 0.07
    """Cost limit of search and ladder together, as a fraction of the full run's FLOPs."""
    proxy: ProxyConfig = ProxyConfig()
    """Size and length of the proxies."""
    rungs: PositiveInt = 3
    """Number of times a trial is judged: at the end, and at earlier points, each with 1/`reduction` of the next one's tokens
    (ASHA). 1: only at the end."""
    reduction: int = Field(default=3, ge=2)
    """One trial in this many continues from a rung to the next."""
    metric: Literal["val_loss", "loss"] = "val_loss"
    """Metric to minimise: the loss over a part of the validation split, or the training loss of the last tenth of the steps."""
    judged_tokens: PositiveInt | None = None
    """Approximate number of validation units that a trial is judged on, the same for all trials (default: by trial length)."""
    horizon: NonNegativeFloat = 0.32
    """Exponent of the tokens' ratio by which the learning rate found is reduced for the longer run (Bjorck et al. 2025)."""
    ladder: NonNegativeFloat = Field(default=0.4, lt=1)
    """Fraction of the budget for runs of several sizes with the values found, which forecast the full run's loss; 0: none."""
