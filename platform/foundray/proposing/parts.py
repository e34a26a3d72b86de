"""The sources that some files of text become: one per format and field, with paths that give their files and no others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from foundray.data.files.files import RawFile
from foundray.data.files.globs import glob_regex, split_glob
from foundray.data.files.names import ending
from foundray.errors import InputError
from foundray.proposing.kinds import Group
from foundray.proposing.prefix import spread
from foundray.proposing.tables import LEAST_LENGTH, columns_of
from foundray.storage import Store
from foundray.urls import WILD, encoded, inside, is_url, path_of, split_query
from foundray.wording.words import plural

WITH_FIELDS = ("jsonl", "csv", "parquet")
"""Formats whose documents are one field of a row."""
SEEN_FIELDS = 32
"""Files of such a format whose fields are looked at."""
ALONE = 12
"""Most files of a part that become a source each, if no glob gives them alone."""


@dataclass
class Source:
    """One source of the spec, and what some of its files say."""

    fields: dict[str, Any]
    files: Sequence[RawFile]
    text_bytes: float = 0.0
    """Bytes of text in it: an estimate."""
    pieces: list[str] = field(default_factory=list)
    bad: str = ""
    """Why the first part that cannot be read cannot."""


def sources_of(place: str, group: Group) -> tuple[list[Source], list[str]]:
    """(one source if all files are read alike, otherwise one or more per format and field; what is left out, in sentences).

    Raises InputError if no field holds text.
    """
    parts: dict[tuple[str, str], list[RawFile]] = {}
    left: list[str] = []
    for file in group.files:
        parts.setdefault(("text" if file.format == "code" else file.format, ""), []).append(file)
    formats = len(parts)
    for form in WITH_FIELDS:
        for name, files in _by_field(parts.pop((form, ""), []), form, left).items():
            parts[form, name] = files
    if not parts:
        raise InputError(f"{place}: no column or field of its files holds text (values of {LEAST_LENGTH} characters or more)")
    alike = formats == len(parts) == 1
    found: list[Source] = []
    for (form, name), files in parts.items():
        paths = [(place, files)] if alike else paths_of(place, files, group.files)
        fields = ({} if form == "text" and alike else {"format": form}) | ({"field": name} if name else {})
        found += [Source({"path": path, **fields}, some) for path, some in paths]
        if lost := len(files) - sum(len(some) for _, some in paths):
            left.append(f"  left out: {lost:,} of {plural(len(files), f'{form} file')}, which no glob tells from the others")
    return found, left


def _by_field(files: Sequence[RawFile], form: str, left: list[str]) -> dict[str, list[RawFile]]:
    """The files by the field that holds their text; a file without text goes with most."""
    seen = {file.url: columns_of(file) for file in spread(files, SEEN_FIELDS)}
    texts = {url: found[0] for url, columns in seen.items() if (found := columns.texts())}
    if not texts:
        if files:
            left.append(f"  left out: {plural(len(files), f'{form} file')} without a field of text")
        return {}
    most = Counter(texts.values()).most_common(1)[0][0]
    parts = dict[str, list[RawFile]]()
    for file in files:
        has_most = file.url not in texts or most in seen[file.url].values
        parts.setdefault(most if has_most else texts[file.url], []).append(file)
    if len(parts) == 1 or len(seen) == len(files):
        return parts
    left.append(f"  not in every file: the field {most!r}; put files that have another field into a folder of their own")
    return {most: list(files)}


def paths_of(place: str, files: Sequence[RawFile], others: Sequence[RawFile]) -> list[tuple[str, Sequence[RawFile]]]:
    """Paths inside a folder or a glob that together give `files`, and no other of `others`, each with its files.

    A glob of their endings, or of their names; or else each file by itself. If there are too many for that, some are left out.
    """
    base, pattern = split_glob(place)
    location, query = split_query(base)
    root = len(path_of(Store.at(base).url).rstrip("/")) + 1
    names = {file.url: path_of(file.url)[root:] for file in others}
    mine = {file.url for file in files}
    best: list[tuple[str, Sequence[RawFile]]] = []
    for glob in _globs(pattern, [names[file.url] for file in files]) if len(files) > 1 else ():
        regex = glob_regex(glob)
        if not (matched := {url for url, name in names.items() if regex.fullmatch(name)}) <= mine or not matched:
            continue
        path = f"{location.rstrip('/')}/{glob}"
        path = encoded(path, WILD) + query if is_url(path) else path
        best = best or [(path, [file for file in files if file.url in matched])]
        if len(matched) == len(mine):
            return [(path, files)]
    largest = sorted(files, key=lambda file: -file.size)[:ALONE]
    return best if best and len(files) > ALONE else [(inside(base, names[file.url]), [file]) for file in largest]


def _globs(pattern: str, names: Sequence[str]) -> Iterator[str]:
    """Globs that may give these names inside a folder: by their endings, inside a glob's own pattern; and by their names."""
    if endings := sorted({name[len(name) - len(ending(name)) :] for name in names} - {""}):
        tail = _one_of(endings)
        if not pattern or pattern.endswith("**"):
            yield f"{pattern or '**'}/*{tail}"
        elif pattern.endswith("*"):
            yield pattern + tail
    last = sorted({name.rpartition("/")[2] for name in names})
    if not pattern and len(last) <= SEEN_FIELDS and all(re.fullmatch(r"[\w. -]+", one) for one in last):
        yield f"**/{_one_of(last)}"


def _one_of(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else "{" + ",".join(words) + "}"
