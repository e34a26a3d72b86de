"""A run's lineage: the cuts that undo states.

A roll-back, or a loss of trust in what was computed, undoes all states after a step. A state says under which cuts it was made,
and is usable if no later cut undid it. So a cut has its effect once it is recorded: nothing has to be deleted for it, and no
late worker, slow upload or killed driver can bring an undone state back. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cut:
    id: str
    """Follows from this cut and all before it, so that it stands for the whole list up to here."""
    to: int
    """States of later steps that were made before the cut are undone."""


Lineage = tuple[Cut, ...]
"""All cuts of a run, in order."""
Event = Mapping[str, Any]
"""A record of a run's events."""


def cut(lineage: Lineage, kind: str, to: int, step: int) -> Cut:
    """The cut that an event of this kind, at this step, adds."""
    content = f"{under(lineage)} {kind} {to} {step}"
    return Cut(hashlib.sha256(content.encode()).hexdigest()[:8], to)


def recorded(events: Iterable[Event]) -> Lineage:
    """Read the cuts from a run's events. Those of earlier versions have no id: what they undid was deleted."""
    return tuple(Cut(event["cut"], event["to"]) for event in counted(events) if event.get("cut"))


def counted(events: Iterable[Event]) -> Iterator[Event]:
    """Events without those whose cut is recorded already, or after the run's end.

    A command that does not know yet that another has taken the run over may record the same cut as that one, before or after
    it. Counted twice, it would undo what was made under it. It may also record one once the other has finished the run: no
    group has computed since, so nothing can have been found.
    """
    seen, finished = set[str](), False
    for event in events:
        kind = event.get("event")
        finished = kind == "finished" or (finished and kind != "workers_started")
        if finished and kind in ("rolled_back", "left_out"):
            continue
        if (made := event.get("cut")) not in seen:
            yield event
        if made:
            seen.add(made)


def undoes_after(event: Event) -> int | None:
    """The step after which an event undoes all states and evaluations; None if it undoes none.

    A roll-back of earlier versions does, too, although it has no id.
    """
    return int(event["to"]) if event.get("cut") or event["event"] == "rolled_back" else None


def evaluations(events: Iterable[Event]) -> list[Event]:
    """The evaluations that no cut has undone, in order."""
    found: list[Event] = []
    for event in counted(events):
        if event["event"] == "evaluated":
            found.append(event)
        elif (to := undoes_after(event)) is not None:
            found = [one for one in found if one["step"] <= to]
    return found


def under(lineage: Lineage) -> str:
    """What a state made now says of its lineage: the id of the last cut, empty if there is none."""
    return lineage[-1].id if lineage else ""


def usable(step: int, made_under: str, lineage: Lineage) -> bool:
    """Tell whether a state of this step, made under these cuts, is part of the run that has made all of `lineage`.

    A state that was made under a cut unknown to the run is not.
    """
    later = _later(made_under, lineage)
    return later is not None and all(step <= cut.to for cut in later)


def undone(step: int, made_under: str, lineage: Lineage) -> bool:
    """Tell whether a state of the run has been undone by a later cut."""
    return any(step > cut.to for cut in _later(made_under, lineage) or ())


def _later(made_under: str, lineage: Lineage) -> Lineage | None:
    """The cuts after the one with this id; None if there is none with it."""
    ids = ["", *(one.id for one in lineage)]
    return lineage[ids.index(made_under) :] if made_under in ids else None
