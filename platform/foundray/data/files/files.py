"""The raw files of a source in path order, each with its format; what is left out; and groups of neighbouring files."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pyarrow import fs

from foundray.data.files.globs import glob_depth, glob_regex, split_glob
from foundray.data.files.listing import AGAIN, HIDDEN, listing
from foundray.data.files.names import ending, ends_in, format_of
from foundray.errors import InputError
from foundray.spec import SourceConfig
from foundray.spec.formats import FORMATS
from foundray.storage import Store
from foundray.urls import inside

KINDS_SHOWN = 6
"""Most kinds of files that a line names, the most frequent first."""
NAMES_SHOWN = 3


@dataclass(frozen=True)
class RawFile:
    """An input file, and the facts that show whether it has changed."""

    url: str
    size: int
    modified_ns: int
    format: str = "text"
    """The format it is read as: one of `data.sources`, never `auto`."""


@dataclass(frozen=True)
class Found:
    """The files of a source, and what is left out."""

    files: list[RawFile]
    left_out: str
    """A phrase; empty if nothing is left out."""

    def line(self, source: SourceConfig) -> str:
        """A line on files of several formats and on what is left out; empty if there is neither."""
        formats = Counter("text" if file.format == "code" else file.format for file in self.files)
        read = f"read by their endings, {_listed(formats)}" if len(formats) > 1 else ""
        left = f"left out: {self.left_out}" if self.left_out else ""
        return f"{source.path}: {'; '.join(part for part in (read, left) if part)}" if read or left else ""


def find_files(source: SourceConfig, endings: tuple[str, ...] = ()) -> list[RawFile]:
    """List the source's files in path order, by a modality's `endings` if given. Raises InputError if there are none."""
    return look(source, endings).files


def look(source: SourceConfig, endings: tuple[str, ...] = ()) -> Found:
    """List the source's files, and what is left out. Raises InputError if there are no files."""
    # A single file is taken by itself.
    base, pattern = split_glob(source.path)
    root = Store.at(base)
    info = root.info()
    if info.type == fs.FileType.NotFound:
        raise InputError(f"the source {source.path} does not exist (looked for {root})")
    if info.type == fs.FileType.File:
        return Found([_single(source, root, info, endings)], "")
    if info.type != fs.FileType.Directory:
        raise InputError(f"the source {source.path} is neither a file nor a folder")
    # A folder: keep what the glob matches.
    found = listing(root, glob_depth(pattern) if pattern else None)
    files, others = list[RawFile](), list[str]()
    if pattern:
        regex = glob_regex(pattern)
        wanted = [entry for entry in found.files if regex.fullmatch(entry.name)]
        # Entries that the glob does not match, or leaves out on purpose, are not reported.
        skipped = {reason: [name for name in names if regex.fullmatch(name)] for reason, names in found.skipped.items()}
        skipped = {reason: names for reason, names in skipped.items() if names and reason not in (HIDDEN, AGAIN)}
    else:
        wanted, skipped = found.files, found.skipped
    # Keep the files whose format is read.
    for entry in wanted:
        form = _format(source, entry.name, endings, named=bool(pattern))
        if form is None:
            others.append(entry.name)
        else:
            files.append(RawFile(inside(root.url, entry.name), entry.size, entry.modified_ns, form))
    if not files:
        names = [entry.name for entry in found.files]
        why = _why_empty(source, pattern, endings, names, others if pattern else [], skipped)
        raise InputError(f"the source {source.path} is empty: {why}")
    return Found(files, _left_out(source, others, skipped))


def grouped(files: Iterable[RawFile], most_bytes: int, most_files: int | None = None) -> Iterator[tuple[RawFile, ...]]:
    """Group neighbouring files, up to `most_bytes` and `most_files` per group. A larger file is a group of its own."""
    group, size = list[RawFile](), 0
    for file in files:
        if group and (size + file.size > most_bytes or len(group) == most_files):
            yield tuple(group)
            group, size = [], 0
        group.append(file)
        size += file.size
    if group:
        yield tuple(group)


def _format(source: SourceConfig, name: str, endings: tuple[str, ...], named: bool) -> str | None:
    """The format a file is read as; None if it is not read. `named`: a glob matched it, so any explicit format holds for it."""
    if source.format == "auto":
        return format_of(name, endings)
    if named or ends_in(name, endings if source.format == "files" else FORMATS[source.format].endings):
        return source.format
    return None


def _single(source: SourceConfig, root: Store, info: fs.FileInfo, endings: tuple[str, ...]) -> RawFile:
    form = source.format if source.format != "auto" else format_of(root.name, endings)
    if form is None:
        kind = ending(root.name) or "names without an ending"
        right = f"files, if it is one of {', '.join(endings)}" if endings else "text, if it is text"
        raise InputError(f"the source {source.path} is of no format that is read by the ending {kind}; set its format: {right}")
    return RawFile(root.url, info.size or 0, info.mtime_ns or 0, form)


def _left_out(source: SourceConfig, others: Sequence[str], skipped: Mapping[str, list[str]]) -> str:
    reason = "of no format that is read" if source.format == "auto" else f"not {source.format} by the ending"
    return "; ".join([*([f"{_kinds(others)} ({reason})"] if others else []), *_skip_phrases(skipped)])


def _why_empty(
    source: SourceConfig,
    pattern: str,
    endings: tuple[str, ...],
    names: Sequence[str],
    others: Sequence[str],
    skipped: Mapping[str, list[str]],
) -> str:
    """Why a source has no files. `names`: all files in the folder; `others`: those that match the glob but are not read."""
    there = "; ".join([*([_kinds(names)] if names else []), *_skip_phrases(skipped)])
    if others:
        why = f"what {pattern!r} matches is of no format that is read by its ending ({_kinds(others)}); set its format"
        return f"{why}: {'files' if endings else 'text'}, if it is that"
    if pattern:
        why = f"no file matches {pattern!r}"
    elif source.format == "files" or (source.format == "auto" and endings):
        why = f"it holds no file that ends in {', '.join(endings)}"
    else:
        why = f"it holds no {'file of a format that is read' if source.format == 'auto' else f'{source.format} file'}"
    return f"{why}; there are: {there}" if there else why if pattern else "it holds no file"


def _skip_phrases(skipped: Mapping[str, list[str]]) -> list[str]:
    """A phrase per reason to skip files, with example names except for hidden ones."""
    return [
        f"{reason}: {len(names):,}" + ("" if reason == HIDDEN else f" ({_examples(names)})")
        for reason, names in skipped.items()
    ]


def _kinds(names: Iterable[str]) -> str:
    """`12 .csv, 3 without an ending`."""
    return _listed(Counter(ending(name) or "without an ending" for name in names))


def _listed(counts: Counter[str]) -> str:
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{count:,} {kind}" for kind, count in most[:KINDS_SHOWN]]
    if rest := most[KINDS_SHOWN:]:
        shown.append(f"{sum(count for _, count in rest):,} of {len(rest)} other kinds")
    return ", ".join(shown)


def _examples(names: Sequence[str]) -> str:
    shown = [_printable(posixpath.basename(name)) for name in sorted(names)[:NAMES_SHOWN]]
    return ", ".join(shown) + (", …" if len(names) > NAMES_SHOWN else "")


def _printable(name: str) -> str:
    """The name, in ASCII if it is not printable: a byte that is not UTF-8 becomes `\\xe9`."""
    return name if name.isprintable() else re.sub(r"\\udc([0-9a-f]{2})", r"\\x\1", ascii(name))
