"""Series: their channels and lengths, and the patches of time that suit them."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from foundray.contract import Unreadable
from foundray.contract.ts_cases import Case, cases
from foundray.data.files.files import RawFile
from foundray.data.files.names import bare
from foundray.errors import InputError
from foundray.proposing.choices import Choice
from foundray.proposing.kinds import Group
from foundray.proposing.prefix import spread, whole
from foundray.proposing.tables import columns_of, is_number
from foundray.wording.sentences import plain
from foundray.wording.words import plural, size

SEEN = 8
"""Files that are looked at."""
SHAPES = ((16, 32), (16, 16), (8, 16), (8, 8), (4, 8), (2, 8), (1, 8))
"""Steps per patch, and patches per sample, the longest samples first."""
WINDOWS = 16
"""Samples that a channel of a table should give at least, so that some can be held out; a case of a .ts file gives one."""
COUNTERS = 4
"""Most names of columns that are left out in a comment."""


@dataclass(frozen=True)
class Seen:
    """A series in a file that was looked at."""

    file: RawFile
    names: list[str]
    """Its channels."""
    steps: float
    counters: tuple[str, ...] = ()
    """Other numeric columns, which only count up."""
    is_plain: bool = True
    """Whether its numbers have no commas, which the modality may read in several ways, and then refuse."""
    is_case: bool = False


def look(place: str, group: Group, gpu: bool) -> Choice:
    """Choose patch and context by the channels' lengths. Raises InputError if no series can be read."""
    seen = [one for file in spread(group.files, SEEN) for one in _seen_in(file)]
    if not seen:
        raise InputError(f"{place}: no numeric column can be read")
    longest = statistics.median(one.steps for one in seen)
    single = any(one.is_case for one in seen)
    many = len(group.files) * len(seen) >= 4 * WINDOWS or single
    fitting = [one for one in SHAPES if one[0] * one[1] * (1 if many else WINDOWS) <= longest]
    if not fitting:
        raise InputError(f"{place}: its series have about {longest:,.0f} steps, which are too few for one sample")
    patch, context = fitting[0]
    share = group.bytes / max(1, sum({one.file.url: one.file.size for one in seen}.values()))
    values = share * sum(len(one.names) * one.steps for one in seen)
    names = seen[0].names
    found = [
        f"series: {plural(len(group.files), 'file')} ({group.endings()}), {size(group.bytes)}; {plural(len(names), 'channel')} "
        f"of about {longest:,.0f} steps: {', '.join(names[:8])}{', …' * (len(names) > 8)}"
    ]
    columns, note = _columns(seen)
    return Choice(
        modality={"kind": "series", "patch": patch, **columns},
        sources=[{"path": place, "format": "files"}],
        objective={"kind": "masked_patch"}, units=values / patch, samples=values / patch / context / 2, context=context,
        width=patch, found=found,
        notes={
            "modality": f"a patch is {patch} steps of one channel; {note}",
            "objective": "or: next_patch, for forecasts; see docs/objectives.md",
            "model": f"a sample is {patch * context:,} steps",
        },
        then=f"foundray embed {{name}} {shlex.quote(place)} vectors",
    )  # fmt: skip


def _columns(seen: Sequence[Seen]) -> tuple[dict[str, list[str]], str]:
    """The modality's columns, if some count up and a list of the others suits all files; and a note on columns."""
    counters = list(dict.fromkeys(name for one in seen for name in one.counters))
    if not counters:
        return {}, "columns: [...] takes some channels alone"
    which = plain(", ".join(counters[:COUNTERS]) + ", …" * (len(counters) > COUNTERS))
    first = seen[0]
    # Names that are numbers are a first row of data: the modality names such columns by their index.
    alike = all((one.names, one.counters) == (first.names, first.counters) and one.is_plain for one in seen)
    if alike and not any(map(is_number, first.names)):
        return {"columns": first.names}, f"left out, since it only counts up: {which}"
    return {}, f"columns: [...] takes some channels alone, without what only counts up: {which}"


def _seen_in(file: RawFile) -> list[Seen]:
    """The series in a file."""
    if bare(file.url).endswith(".ts"):
        return _cases(file)
    columns = columns_of(file)
    counters = tuple(columns.counters())
    names = [name for name in columns.numbers() if name not in counters]
    is_plain = not any(columns.has_commas(name) for name in names)
    return [Seen(file, names, columns.rows, counters, is_plain)] if names and columns.rows >= 1 else []


def _cases(file: RawFile) -> list[Seen]:
    try:
        found: Sequence[Case] = [case for _, _, case in cases(whole(file)) if isinstance(case, Case)]
    except Unreadable:
        return []
    return [
        Seen(file, [f"dimension {at}" for at in range(len(one.dimensions))], float(len(one.dimensions[0])), is_case=True)
        for one in found
    ]
