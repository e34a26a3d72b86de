"""On what a run is judged as it goes, and on how much of it: never changes the result."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, field_validator

from foundray.spec.section import Section, nearest

VALIDATION = "validation"


class EvaluationSetConfig(Section):
    samples: Literal["auto", "whole"] | PositiveInt = "auto"
    """How many samples are looked at each time: `whole`, or a number of them, chosen once by the seed from all over the set
    and rounded up to whole micro-batches. `auto` is the whole set while all evaluations together take less than 1 % of the
    tokens that the run trains on, else as many samples as that allows, and at least 1,024."""


class EvaluateConfig(Section):
    sets: dict[str, EvaluationSetConfig] = Field(default={}, validate_default=True)
    """The sets of samples by name. There is one, `validation`, named or not: the split that `data.holdout` keeps."""
    at_end: Literal["same", "whole"] = "same"
    """How much the evaluation at the end of the run looks at: the same samples as before, or the whole sets."""

    @field_validator("sets")
    @classmethod
    def _known(cls, sets: dict[str, EvaluationSetConfig]) -> dict[str, EvaluationSetConfig]:
        for name in sets:
            if name != VALIDATION:
                raise ValueError(f"there is no set {name!r}{nearest(name, [VALIDATION])}; there is: {VALIDATION}")
        return {VALIDATION: EvaluationSetConfig()} | sets
