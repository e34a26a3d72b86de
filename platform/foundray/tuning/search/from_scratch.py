"""Searches train networks from scratch."""

from __future__ import annotations

from foundray.errors import InputError
from foundray.spec import Spec


def check_from_scratch(spec: Spec, verb: str) -> None:
    """Raises InputError if the spec starts from another run's weights."""
    if spec.init_from:
        raise InputError(
            f"init_from: {verb} trains networks of other sizes from scratch, which the weights of {spec.init_from} do not fit, "
            "and what is best from scratch need not be best for a continued run: leave it out here (--set init_from=null)"
        )
