"""From files to the numbers of a spec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from foundray.contract import load_objective
from foundray.errors import InputError
from foundray.proposing import documents, pictures, recordings, series
from foundray.proposing.choices import Choice
from foundray.proposing.kinds import Group
from foundray.proposing.machine import Machine
from foundray.proposing.sizes import Sizes, size
from foundray.wording.sentences import plain

LOOKS: dict[str, Callable[[str, Group, bool], Choice]] = {
    "text": documents.look,
    "dna": documents.look_at_genomes,
    "image": pictures.look,
    "audio": recordings.look,
    "series": series.look,
}
"""By modality: (place, files, whether a GPU is there) → choice."""
LEAST_UNITS = 500
"""Fewest tokens or units that a run is proposed for."""


@dataclass(frozen=True)
class Proposal:
    choice: Choice
    sizes: Sizes
    machine: Machine
    left_out: str
    """Files of other kinds, in words; empty if there are none."""


def propose(
    place: str, groups: Sequence[Group], minutes: float, measure: Callable[[], Machine], report: Callable[[str], None]
) -> Proposal:
    """Look at the files of the first group, and size a run for them. Raises InputError."""
    group, *others = groups
    if group.kind not in LOOKS:
        raise InputError(f"{place}: init cannot look at the modality {group.kind}; docs/objectives.md shows a spec for it")
    machine = measure()
    choice = LOOKS[group.kind](place, group, machine.gpus > 0)
    choice = replace(choice, found=[" " * (len(line) - len(line.lstrip(" "))) + plain(line) for line in choice.found])
    for line in choice.found:
        report(line)
    if choice.units < LEAST_UNITS:
        raise InputError(f"{place} holds about {choice.units:,.0f} tokens, which is too little to learn from; give more data")
    options = {name: value for name, value in choice.objective.items() if name != "kind"}
    couples = load_objective(choice.objective["kind"], options).couples
    left_out = "; ".join(f"{other.endings()} ({other.kind})" for other in others)
    return Proposal(choice, size(choice, machine, minutes, couples), machine, left_out)
