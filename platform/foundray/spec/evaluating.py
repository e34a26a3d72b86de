"""What a run is evaluated on, and on how much of it; never changes the result."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, field_validator

from foundray.spec.learning import FormatName
from foundray.spec.section import Section, nearest, without_secret

VALIDATION = "validation"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
"""Name of a set or of a task, and of files."""


Place = Annotated[str, AfterValidator(without_secret)]
"""A path or a URL without a secret, as it is stored and shown."""


class EvaluationSetConfig(Section):
    samples: Literal["auto", "whole"] | PositiveInt = "auto"
    """Samples per evaluation: `whole`, or a number, chosen once by the seed, spread evenly over the set, and rounded up to
    whole micro-batches. `auto` is the whole set if all evaluations together take at most 1 % of the run's training tokens,
    otherwise as many samples as that allows, and at least 1,024."""
    path: Place | None = Field(default=None, min_length=1)
    """For a set besides `validation`: its files, as in a source. None of them should be among the training data."""
    format: FormatName = "auto"
    """How they are stored, as in a source."""
    field: str = "text"
    """The field or column that holds the text, as in a source."""
    documents: Literal["file", "line", "paragraph"] = "file"
    """Unit of a document in a text file, as in a source."""
    every: PositiveInt | None = None
    """Steps between two evaluations on it, a multiple of `train.evaluate_every` (default: each one); the last is at the end."""


class LikelihoodTaskConfig(Section):
    path: Place = Field(min_length=1)
    """A file of JSON Lines, as `foundray evaluate --task` takes it; a copy is kept in the run's folder."""
    delimiter: str = ""
    """What stands between a context and what follows it."""
    limit: PositiveInt | None = None
    """Use this many items, the first (default: all)."""
    every: PositiveInt | None = None
    """Steps between two uses, a multiple of `train.evaluate_every` (default: every evaluation). The last is at the end."""


class EvaluateConfig(Section):
    sets: dict[Name, EvaluationSetConfig] = Field(default={}, validate_default=True)
    """Sets of samples by name. `validation` is the split that `data.holdout` keeps, and is always evaluated; others have a
    `path`."""
    at_end: Literal["same", "whole"] = "same"
    """Samples of the evaluation at `train.steps`: the same as before, or the whole sets. An evaluation by which
    `train.stop_early` ends the run is like those before."""
    tasks: dict[Name, LikelihoodTaskConfig] = Field(default={})
    """Tasks by likelihood, by name, on which a model of text is judged at evaluations."""
    prompts: list[str] | None = None
    """Prompts that a model of text continues at each evaluation (default: one, the first tokens of the validation split)."""
    text_tokens: NonNegativeInt = 48
    """Most tokens that it adds to each prompt, the likeliest each time; 0 turns these texts off."""
    reconstructions: NonNegativeInt = 3
    """Validation samples kept at each evaluation, to be looked at: the input, what the model is shown of it, and what
    it predicts. For pictures, recordings and series, with an objective that predicts their values; 0 turns them off."""

    @field_validator("sets")
    @classmethod
    def _known(cls, sets: dict[str, EvaluationSetConfig]) -> dict[str, EvaluationSetConfig]:
        for name, chosen in sets.items():
            if name != VALIDATION and chosen.path is None:
                near = nearest(name, [VALIDATION])
                raise ValueError(f"there is no set {name!r}{near}; a set besides {VALIDATION} needs a path")
            if name == VALIDATION and chosen != EvaluationSetConfig(samples=chosen.samples):
                raise ValueError(f"{VALIDATION} is the split that data.holdout keeps, and takes `samples` alone")
        return {VALIDATION: EvaluationSetConfig()} | sets

    @property
    def others(self) -> dict[str, EvaluationSetConfig]:
        """The sets besides `validation`."""
        return {name: chosen for name, chosen in self.sets.items() if name != VALIDATION}
