"""The regular files in a folder, local or remote, and what was skipped and why.

A local folder is read once, however many links lead to it, so that a loop of links ends.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from pyarrow import fs

from foundray.data.files.names import is_hidden
from foundray.errors import InputError
from foundray.storage import Store, reading

HIDDEN = "hidden"
BROKEN = "broken links"
GONE = "files that vanished meanwhile"
AGAIN = "links to folders that are read anyway"
SPECIAL = "pipes, sockets or devices"
NOT_UTF8 = "names that are not UTF-8"
"""Reasons to skip an entry."""


@dataclass(frozen=True)
class Entry:
    """A regular file."""

    name: str
    """Its path inside the folder."""
    size: int
    modified_ns: int


@dataclass
class Listing:
    files: list[Entry] = field(default_factory=list)
    """In path order."""
    skipped: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Names by reason. A skipped folder is named without its content."""


def listing(root: Store, depth: int | None = None) -> Listing:
    """List a folder, `depth` levels deep (None for all). Raises InputError for a folder that cannot be read."""
    found = _local(root.path, depth) if root.is_local else _remote(root, depth)
    found.files.sort(key=lambda entry: entry.name)
    return found


def _remote(root: Store, depth: int | None) -> Listing:
    found, prefix_length = Listing(), len(root.path.rstrip("/")) + 1
    with reading(root):
        infos = root.filesystem.get_file_info(fs.FileSelector(root.path, recursive=depth != 1))
    for info in infos:
        name = info.path[prefix_length:]
        if info.type != fs.FileType.File or (depth is not None and name.count("/") >= depth):
            continue
        if is_hidden(name):
            found.skipped[HIDDEN].append(name)
        else:
            found.files.append(Entry(name, info.size or 0, info.mtime_ns or 0))
    return found


def _local(path: str, depth: int | None) -> Listing:
    found = Listing()
    real = os.path.realpath(path)
    read, folders, links = {real}, [("", real)], list[tuple[str, str]]()
    while folders or links:
        # Links last, so that a folder is read under its own name if that is inside, too.
        if folders:
            name, real = folders.pop()
        else:
            links.sort(reverse=True)
            name, real = links.pop()
            if real in read:
                found.skipped[AGAIN].append(name)
                continue
            read.add(real)
        # Follow folders now, or links later; add files to `found`.
        for entry in _entries(Path(path, name)):
            inside = f"{name}/{entry.name}" if name else entry.name
            reason, is_folder = _classify(entry, inside, found)
            if reason:
                found.skipped[reason].append(inside)
            elif is_folder and (depth is None or inside.count("/") + 1 < depth):
                if entry.is_symlink():
                    links.append((inside, os.path.realpath(entry.path)))
                elif (below := f"{real.rstrip('/')}/{entry.name}") not in read:
                    read.add(below)
                    folders.append((inside, below))
    return found


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise InputError(_unreadable(f"the folder {folder}", error)) from None


def _unreadable(what: str, error: OSError) -> str:
    why = os.strerror(error.errno or 0)
    return f"{what} cannot be read ({why}): make it readable, or name files by a glob that leaves it out"


def _classify(entry: os.DirEntry[str], name: str, found: Listing) -> tuple[str, bool]:
    """(reason to skip the entry, whether it is a folder). A regular file is added to `found`."""
    if is_hidden(entry.name):
        return HIDDEN, False
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return NOT_UTF8, False
    try:
        facts = entry.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return BROKEN if entry.is_symlink() else GONE, False
        raise InputError(_unreadable(entry.path, error)) from None
    if stat.S_ISDIR(facts.st_mode):
        return "", True
    if not stat.S_ISREG(facts.st_mode):
        return SPECIAL, False
    found.files.append(Entry(name, facts.st_size, facts.st_mtime_ns))
    return "", False
