"""What a run is evaluated on, and on how much of it; never changes the result."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, field_validator

from foundray.spec.section import Section, nearest

VALIDATION = "validation"


class EvaluationSetConfig(Section):
    samples: Literal["auto", "whole"] | PositiveInt = "auto"
    """Samples per evaluation: `whole`, or a number, chosen once by the seed, spread evenly over the set, and rounded up to
    whole micro-batches. `auto` is the whole set if all evaluations together take at most 1 % of the run's training tokens,
    otherwise as many samples as that allows, and at least 1,024."""


class EvaluateConfig(Section):
    sets: dict[str, EvaluationSetConfig] = Field(default={}, validate_default=True)
    """Sets of samples by name. The only one is `validation`, the split that `data.holdout` keeps; it is always evaluated."""
    at_end: Literal["same", "whole"] = "same"
    """Samples of the evaluation at the end of the run: the same as before, or the whole sets."""

    @field_validator("sets")
    @classmethod
    def _known(cls, sets: dict[str, EvaluationSetConfig]) -> dict[str, EvaluationSetConfig]:
        for name in sets:
            if name != VALIDATION:
                raise ValueError(f"there is no set {name!r}{nearest(name, [VALIDATION])}; the only set is {VALIDATION}")
        return {VALIDATION: EvaluationSetConfig()} | sets
