"""Series: their channels and lengths, and the patches of time that suit them."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Sequence

from foundray.contract import Unreadable
from foundray.contract.ts_cases import Case, cases
from foundray.data.files.files import RawFile
from foundray.data.files.names import bare
from foundray.errors import InputError
from foundray.proposing.choices import Choice
from foundray.proposing.kinds import Group
from foundray.proposing.prefix import spread, whole
from foundray.proposing.tables import columns_of
from foundray.wording.words import plural, size

SEEN = 8
"""Files that are looked at."""
SHAPES = ((16, 32), (16, 16), (8, 16), (8, 8), (4, 8), (2, 8), (1, 8))
"""Steps per patch, and patches per sample, the longest samples first."""
WINDOWS = 16
"""Samples that a channel of a table should give at least, so that some can be held out; a case of a .ts file gives one."""


def look(place: str, group: Group, gpu: bool) -> Choice:
    """Choose patch and context by the channels' lengths. Raises InputError if no series can be read."""
    seen = [(file, *found) for file in spread(group.files, SEEN) for found in _channels(file)]
    if not seen:
        raise InputError(f"{place}: no numeric column can be read")
    longest = statistics.median(steps for _, _, steps, _ in seen)
    single = any(cases for _, _, _, cases in seen)
    many = len(group.files) * len(seen) >= 4 * WINDOWS or single
    fitting = [one for one in SHAPES if one[0] * one[1] * (1 if many else WINDOWS) <= longest]
    if not fitting:
        raise InputError(f"{place}: its series have about {longest:,.0f} steps, which are too few for one sample")
    patch, context = fitting[0]
    share = group.bytes / max(1, sum({file.url: file.size for file, *_ in seen}.values()))
    values = share * sum(len(names) * steps for _, names, steps, _ in seen)
    names = seen[0][1]
    found = [
        f"series: {plural(len(group.files), 'file')} ({group.endings()}), {size(group.bytes)}; {plural(len(names), 'channel')} "
        f"of about {longest:,.0f} steps: {', '.join(names[:8])}{', …' * (len(names) > 8)}"
    ]
    return Choice(
        modality={"kind": "series", "patch": patch},
        sources=[{"path": place, "format": "files"}],
        objective={"kind": "masked_patch"}, units=values / patch, samples=values / patch / context / 2, context=context,
        width=patch, found=found,
        notes={
            "modality": f"a patch is {patch} steps of one channel; columns: [...] takes some channels alone",
            "objective": "or: next_patch, for forecasts; see docs/objectives.md",
            "model": f"a sample is {patch * context:,} steps",
        },
        then=f"foundray embed {{name}} {shlex.quote(place)} vectors",
    )  # fmt: skip


def _channels(file: RawFile) -> list[tuple[list[str], float, bool]]:
    """(names of channels, steps, whether it is a case) of each series in a file."""
    if bare(file.url).endswith(".ts"):
        return _cases(whole(file))
    columns = columns_of(file)
    names = columns.numbers()
    return [(names, columns.rows, False)] if names and columns.rows >= 1 else []


def _cases(content: bytes) -> list[tuple[list[str], float, bool]]:
    try:
        found: Sequence[Case] = [case for _, _, case in cases(content) if isinstance(case, Case)]
    except Unreadable:
        return []
    return [([f"dimension {at}" for at in range(len(one.dimensions))], float(len(one.dimensions[0])), True) for one in found]
