"""Searches are about networks that are trained from nothing."""

from __future__ import annotations

from foundray.errors import InputError
from foundray.spec import Spec


def check_begins_anew(spec: Spec, verb: str) -> None:
    """Raises InputError for a spec that starts from another run's weights."""
    if spec.init_from:
        raise InputError(
            f"init_from: {verb} trains networks of other sizes, which the weights of {spec.init_from} do not fit, and what is "
            "best for these from nothing need not be for a run that goes on: leave it out here (--set init_from=null)"
        )
