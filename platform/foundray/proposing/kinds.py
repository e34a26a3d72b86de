"""The files in a place, sorted by the kind of data that their names, and if need be their first bytes, say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache

from pyarrow import fs

from foundray import contract
from foundray.data.files.files import RawFile
from foundray.data.files.globs import glob_depth, glob_regex, split_glob
from foundray.data.files.listing import listing
from foundray.data.files.names import bare, ending, format_of
from foundray.data.formats.tar import members
from foundray.errors import InputError
from foundray.proposing.prefix import first_bytes, opened, spread
from foundray.proposing.tables import holds_series
from foundray.storage import Store
from foundray.urls import inside

MEMBERS_SEEN = 40
"""Files in an archive whose names say what it holds."""
TABLES = ("csv", "parquet")
"""Formats that may hold text or series: their columns decide."""
NOTES = 0.02
"""Share of the bytes below which files that are read are notes beside data that is not."""
SPECIAL = {"trajectory": "trajectories need the widths of states and actions: start from `foundray init --example control`"}
"""Kinds of data that no file describes well enough, and what to do."""


@dataclass
class Group:
    """Files of one kind."""

    kind: str
    """A modality's name."""
    files: list[RawFile] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)

    def endings(self) -> str:
        """`12 .txt, 3 .md`."""
        counts = Counter(ending(file.url) or "without an ending" for file in self.files)
        return ", ".join(f"{count:,} {name}" for name, count in counts.most_common(4)) + (", …" if len(counts) > 4 else "")


def sort(place: str) -> list[Group]:
    """The place's files by kind, the kind that most of them are first. Raises InputError if there are none to learn from."""
    groups: dict[str, Group] = {}
    unknown = Counter[str]()
    files = list(_files(place))
    for file in files:
        kind, form = _kind(file)
        if kind:
            groups.setdefault(kind, Group(kind)).files.append(replace(file, format=form))
        else:
            unknown[ending(file.url) or "without an ending"] += 1
    _judge_tables(groups)
    known = sorted((group for group in groups.values() if group.files), key=lambda group: -_share(group, files))
    if not known:
        there = f"; there are: {', '.join(f'{count:,} {name}' for name, count in unknown.most_common(6))}" if unknown else ""
        raise InputError(f"{place} holds no file that can be learned from{there}")
    if remark := SPECIAL.get(known[0].kind):
        raise InputError(f"{place}: {remark}")
    _most_is_read(place, known, files, unknown)
    return known


def _most_is_read(place: str, groups: list[Group], files: list[RawFile], unknown: Counter[str]) -> None:
    """Raises InputError if what is read is hardly more than notes beside the data."""
    read = sum(group.bytes for group in groups)
    if unknown and read < NOTES * sum(file.size for file in files):
        kinds = ", ".join(f"{count:,} {name}" for name, count in unknown.most_common(4))
        raise InputError(f"{place}: nearly all of it is of kinds that are not read ({kinds}): unpack or convert it first")


def _share(group: Group, files: list[RawFile]) -> float:
    """How much of the place a group is, by number and by bytes, so that neither a note nor a big log decides."""
    return len(group.files) / len(files) + group.bytes / max(1, sum(file.size for file in files))


def _files(place: str) -> Iterator[RawFile]:
    base, pattern = split_glob(place)
    root = Store.at(base)
    info = root.info()
    if info.type == fs.FileType.NotFound:
        raise InputError(f"{place} does not exist (looked for {root})")
    if info.type == fs.FileType.File:
        yield RawFile(root.url, info.size or 0, info.mtime_ns or 0)
        return
    found = listing(root, glob_depth(pattern) if pattern else None)
    regex = glob_regex(pattern or "**")
    for entry in found.files:
        if regex.fullmatch(entry.name):
            yield RawFile(inside(root.url, entry.name), entry.size, entry.modified_ns)


def _kind(file: RawFile) -> tuple[str, str]:
    """(modality, format) by the file's name; empty if it is not read."""
    name = bare(file.url)
    form = format_of(file.url)
    if form == "webdataset":
        return _in_archive(file), form
    if form == "fasta":
        return "dna", form
    if name.endswith(".ts"):  # TypeScript, or cases of series
        return ("series", "files") if first_bytes(file, 512).lstrip()[:1] in (b"@", b"#") else ("text", "code")
    if form is not None:
        return "text", form
    kinds = (kind for kind, endings in _endings().items() if name.endswith(endings))
    return next(((kind, "files") for kind in kinds), ("", ""))


@cache
def _endings() -> dict[str, tuple[str, ...]]:
    """Endings by modality, looked up once: looking through all packages takes milliseconds, and there may be many files."""
    return contract.endings()


def _in_archive(file: RawFile) -> str:
    """The kind of most of an archive's first files."""
    kinds = Counter[str]()
    with opened(file) as stream:
        for number, (name, _) in enumerate(members(stream)):
            if name and (kind := _kind(RawFile(name, 0, 0))[0] if not name.endswith((".tar", ".ts")) else ""):
                kinds[kind] += 1
            if number >= MEMBERS_SEEN:
                break
    return kinds.most_common(1)[0][0] if kinds else ""


def _judge_tables(groups: dict[str, Group]) -> None:
    """Move tables of numbers from text to series, by the columns of some of them."""
    if (text := groups.get("text")) is None:
        return
    for form in TABLES:
        tables = [file for file in text.files if file.format == form]
        seen = [holds_series(file) for file in spread(tables, 3)]
        if tables and sum(seen) > len(seen) / 2:
            text.files = [file for file in text.files if file.format != form]
            groups.setdefault("series", Group("series")).files += [replace(file, format="files") for file in tables]
