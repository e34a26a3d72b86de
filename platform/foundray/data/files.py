"""Which raw files a source has, in path order, and neighbouring ones together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyarrow import fs

from foundray.data.names import ENDINGS, ends_in, is_hidden
from foundray.errors import InputError
from foundray.spec import Source
from foundray.storage import Store, reading


@dataclass(frozen=True)
class RawFile:
    """One input file, and what tells that it has changed."""

    url: str
    size: int
    modified_ns: int


def find_files(source: Source, endings: tuple[str, ...] = ()) -> list[RawFile]:
    """The source's files in path order, of the endings given where the format is `files`. Raises InputError for none."""
    endings = ENDINGS.get(source.format, endings)
    base, pattern = _split_glob(source.path)
    root = Store.at(base)
    with reading(source.path):
        info = root.info()
        if info.type == fs.FileType.NotFound:
            raise InputError(f"the source {source.path} does not exist (looked for {root})")
        if info.type == fs.FileType.File:
            found = [info]
        else:
            found = root.filesystem.get_file_info(fs.FileSelector(root.path, recursive=True))
    files = [
        RawFile(root.url + entry.path[len(root.path) :], entry.size or 0, entry.mtime_ns or 0)
        for entry in sorted(found, key=lambda entry: entry.path)
        if entry.type == fs.FileType.File and (entry is info or _wanted(entry.path[len(root.path) + 1 :], pattern, endings))
    ]
    if not files:
        looked = f"no file matches {pattern!r}" if pattern else f"it holds no {source.format} file"
        raise InputError(f"the source {source.path} is empty: {looked}")
    return files


def grouped(files: Iterable[RawFile], most_bytes: int, most_files: int | None = None) -> Iterator[tuple[RawFile, ...]]:
    """Neighbouring files together, up to so many bytes, or one larger file."""
    group: list[RawFile] = []
    for file in files:
        if group and (sum(f.size for f in group) + file.size > most_bytes or len(group) == most_files):
            yield tuple(group)
            group = []
        group.append(file)
    if group:
        yield tuple(group)


def _wanted(name: str, pattern: str, endings: tuple[str, ...]) -> bool:
    if is_hidden(name):
        return False
    if pattern:
        return re.fullmatch(_glob_to_regex(pattern), name) is not None
    return ends_in(name, endings)


def _split_glob(path: str) -> tuple[str, str]:
    """`data/**/*.txt` as `("data", "**/*.txt")`."""
    parts = path.split("/")
    first = next((i for i, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts))
    return "/".join(parts[:first]) or ("/" if path.startswith("/") else "."), "/".join(parts[first:])


def _glob_to_regex(pattern: str) -> str:
    table = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]*\]|.", pattern)
    return "".join(table.get(t) or (t.replace("[!", "[^") if len(t) > 1 else re.escape(t)) for t in tokens)
