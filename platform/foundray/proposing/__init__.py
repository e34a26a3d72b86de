"""`foundray init`: data is looked at, and becomes a spec that runs, sized for the data, this machine and a time.

Enters: a file, folder, glob or URL. Leaves: the text of a spec, and sentences about what was found. Nothing is asked, and
nothing that exists is overwritten.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from foundray.errors import InputError
from foundray.proposing.choices import Choice
from foundray.proposing.kinds import sort
from foundray.proposing.machine import Machine, measure
from foundray.proposing.page import page
from foundray.proposing.proposal import Proposal, propose
from foundray.spec.filling import name_of
from foundray.storage import check_no_secret
from foundray.wording.shown import Shown

__all__ = ["Choice", "Machine", "Proposal", "Written", "init"]

SHORTEST, LONGEST = 0.05, 10_000_000.0
"""Minutes that may be asked for."""


@dataclass(frozen=True)
class Written(Shown):
    """A spec that was written."""

    spec: Path
    """Its file."""
    name: str
    """The run's name."""
    seconds: float | None = None
    """Time that training is expected to take on this machine; None if it is not known."""
    then: str = ""
    """A command that shows what was learned; empty if it is not known."""


def init(place: str, out: str | None, minutes: float, report: Callable[[str], None]) -> Written:
    """Look at the data in a place and write a spec for it; `out` is its file (default: the data's name). Raises InputError."""
    if not SHORTEST <= minutes <= LONGEST:
        raise InputError(f"--minutes {minutes:g}: it must be a number from {SHORTEST:g} to {LONGEST:,.0f}")
    check_no_secret(place)
    if not place.strip():
        raise InputError("DATA is empty: name a file, folder, glob or URL, such as data")
    if Path(place).is_dir() and Path.cwd().is_relative_to(Path(place).resolve()):
        raise InputError(
            f"{place} holds this folder, in which the spec and runs/ will be: put the data into a folder of its own, such as "
            "data/, or give a glob"
        )
    name = name_of(re.sub(r"[*?\[{]", "-", place) if Path(place).exists() else place)  # a name that looks like a glob
    target = free(Path(out or f"{name}.yaml"))
    groups = sort(place)
    found = propose(place, groups, minutes, measure, report)
    text = page(name, place, found)
    write_new(target, text)
    return Written(target, name, found.sizes.seconds, found.choice.then.replace("{name}", name))


def free(target: Path) -> Path:
    """The file, if it can be written without overwriting anything. Raises InputError."""
    if target.exists() or target.is_symlink():
        raise InputError(f"{target} is there already, and init overwrites nothing: give another file by --out FILE")
    if not target.absolute().parent.is_dir():
        raise InputError(f"--out {target}: there is no folder {target.parent}")
    return target


def write_new(target: Path, text: str) -> None:
    """Write a file that must not exist. Raises InputError."""
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        free(target)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}") from None
