"""Versions of the arithmetic: whether this Foundray computes the same bits as the one that began a run, search or embedding.

Most changes leave all bits the same. A change that does not raises a version, so that nothing is continued by other rules: the
engine's, below, or that of a modality or objective, which concerns only the runs that use it. Runs, searches and folders of
vectors record the versions of all three parts. A part that an older record does not name is at 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from foundray.spec import Spec

Numbers = Mapping[str, int]
"""Version of the arithmetic by part: `engine`, `modality` or `objective`."""
ENGINE = 1
"""The engine's version: raised when the same files and units give other shards, gradients, updates or hidden states."""
ENGINE_HISTORY: Mapping[int, str] = {}
"""What each version above 1 changed, as a clause."""


class Part(NamedTuple):
    """An installed part that computes."""

    name: str
    version: int
    history: Mapping[int, str]


def parts(spec: Spec) -> dict[str, Part]:
    """The installed parts that a spec uses."""
    modality, objective = spec.data.modality.build(), spec.objective.build()
    return {
        "engine": Part("the engine", ENGINE, ENGINE_HISTORY),
        "modality": Part(f"the modality {spec.data.modality.kind}", modality.arithmetic, modality.arithmetic_history),
        "objective": Part(f"the objective {spec.objective.kind}", objective.arithmetic, objective.arithmetic_history),
    }


def installed(spec: Spec) -> dict[str, int]:
    """Versions that anything begun now by this spec records."""
    return {name: part.version for name, part in parts(spec).items()}


def raised(numbers: Numbers) -> dict[str, int]:
    """Versions above 1. Version 1 is left out, so that it does not change fingerprints."""
    return {name: number for name, number in numbers.items() if number > 1}


def of_data(numbers: Numbers) -> dict[str, int]:
    """Versions of the parts that prepared data and features depend on."""
    return {name: number for name, number in numbers.items() if name != "objective"}


def differing(begun: Numbers, spec: Spec) -> str:
    """The versions that differ, as the object of `was begun with`; empty if none do."""
    here = parts(spec)
    names = dict.fromkeys([*here, *begun])
    return " and ".join(filter(None, (_phrase(name, begun.get(name, 1), here.get(name)) for name in names)))


def _phrase(name: str, begun: int, part: Part | None) -> str:
    now = part.version if part else 1
    if begun == now:
        return ""
    what = f"version {begun} of the arithmetic of {part.name if part else name}"
    if begun > now:
        return f"{what}, where this Foundray knows none above {now}"
    changes = [part.history[version] for version in range(begun + 1, now + 1) if version in part.history] if part else []
    return f"{what}, where this Foundray has {now}" + (f" (since then {', '.join(changes)})" if changes else "")
