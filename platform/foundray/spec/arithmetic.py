"""The version of the arithmetic: whether this Foundray computes as the one that began a run, a search or a folder of vectors.

Most changes leave every bit as it was. One that does not raises a number, so that nothing begun before is continued by other
rules: the engine's, below, or that of one modality or objective, which concerns only the runs that use it. What is begun
records the numbers of all three parts. A part that a record does not name is at 1: there was a time before the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from foundray.spec import Spec

Numbers = Mapping[str, int]
"""By part, `engine`, `modality` or `objective`: the version of what it computes."""
ENGINE = 1
"""The engine's: raised whenever the same files and units give other shards, gradients, updates or hidden states."""
ENGINE_HISTORY: Mapping[int, str] = {}
"""By version above 1, what it changed, as a clause."""


class Part(NamedTuple):
    """One of the parts that compute, as it is installed."""

    name: str
    version: int
    history: Mapping[int, str]


def parts(spec: Spec) -> dict[str, Part]:
    """The installed parts that a spec asks for."""
    modality, objective = spec.data.modality.build(), spec.objective.build()
    return {
        "engine": Part("the engine", ENGINE, ENGINE_HISTORY),
        "modality": Part(f"the modality {spec.data.modality.kind}", modality.arithmetic, modality.arithmetic_history),
        "objective": Part(f"the objective {spec.objective.kind}", objective.arithmetic, objective.arithmetic_history),
    }


def installed(spec: Spec) -> dict[str, int]:
    """The numbers that whatever is begun by a spec now is begun with."""
    return {name: part.version for name, part in parts(spec).items()}


def raised(numbers: Numbers) -> dict[str, int]:
    """Those above 1: a spec whose parts were never changed is named, by its fingerprint, as before there were numbers."""
    return {name: number for name, number in numbers.items() if number > 1}


def of_data(numbers: Numbers) -> dict[str, int]:
    """Those of the parts that prepared data, and features, depend on."""
    return {name: number for name, number in numbers.items() if name != "objective"}


def differing(begun: Numbers, spec: Spec) -> str:
    """What was computed otherwise when something was begun, as the object of `was begun with`; empty if nothing was."""
    here = parts(spec)
    names = dict.fromkeys([*here, *begun])
    return " and ".join(filter(None, (_phrase(name, begun.get(name, 1), here.get(name)) for name in names)))


def _phrase(name: str, there: int, part: Part | None) -> str:
    now = part.version if part else 1
    if there == now:
        return ""
    what = f"version {there} of the arithmetic of {part.name if part else name}"
    if there > now:
        return f"{what}, where this Foundray knows none above {now}"
    changes = [part.history[version] for version in range(there + 1, now + 1) if version in part.history] if part else []
    return f"{what}, where this Foundray has {now}" + (f" (since then {', '.join(changes)})" if changes else "")
