"""A run's length in steps, if the spec gives it in passes over the data."""

from __future__ import annotations

import math
from fractions import Fraction

from foundray.errors import InputError
from foundray.spec import Spec


def with_epochs(spec: Spec, samples: int) -> Spec:
    """The spec with its length in steps, if it is given in epochs of `samples` training samples. Raises InputError."""
    if spec.train.epochs is None:
        return spec
    seen = Fraction(str(spec.train.epochs)) * samples  # as written: a binary fraction might cost a step more
    return with_steps(spec, max(1, math.ceil(seen / spec.samples_per_step)))


def with_steps(spec: Spec, steps: int) -> Spec:
    """The spec with another length. Raises InputError if its schedule, given in steps, does not fit."""
    if problem := spec.schedule.problem(steps):
        raise InputError(problem)
    return spec.model_copy(update={"train": spec.train.model_copy(update={"steps": steps, "tokens": None, "epochs": None})})
