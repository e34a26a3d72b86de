"""How places are written: local paths and URLs as text, before any filesystem is asked."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote

PLAIN = "/!$&'()*+,;=:@"
"""What stands for itself in the path of a URL, beside letters, digits and `-._~` (RFC 3986)."""
WILD = "[]{}?*"
"""What globs are made of: left as it is written in a URL until it is opened."""


def is_url(location: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", location) is not None


def split_query(url: str) -> tuple[str, str]:
    """`s3://bucket/runs?region=eu-central-1` as `s3://bucket/runs` and `?region=eu-central-1`.

    The second is empty for a local path or file, and if `?` is part of a name: a query begins with a field and `=`.
    """
    remote = is_url(url) and not url.lower().startswith("file:")
    found = re.match(r"(.*?)(\?[A-Za-z][A-Za-z0-9_]*=.*)?$", url, re.DOTALL) if remote else None
    return (found[1], found[2] or "") if found else (url, "")


def encoded(url: str, keep: str = "") -> str:
    """The URL with each character that has no place in the path of one percent-encoded, but for those of `keep`.

    What is encoded already stays so. `#` is part of a name, since storage has no fragments.
    """
    place, query = split_query(url)
    head, path = _split_path(place)
    path = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", path)
    return head + quote(path, safe=PLAIN + "%" + keep) + query


def inside(location: str, name: str) -> str:
    """The location of what is called `name` in a folder: as it is in a local path, encoded in a URL."""
    if not is_url(location):
        return posixpath.join(location, name)
    place, query = split_query(location)
    return posixpath.join(place, quote(name, safe=PLAIN)) + query


def outside(location: str) -> str:
    """The location of the folder that this lies in."""
    place, query = split_query(location)
    return posixpath.dirname(place.rstrip("/")) + query


def path_of(location: str) -> str:
    """A local path as it is, or the path in a URL, decoded."""
    if not is_url(location):
        return location
    return unquote(_split_path(split_query(location)[0])[1], errors="surrogateescape")


def local_path(location: str) -> str:
    """Absolute; links stay as they are."""
    try:
        return Path(location).expanduser().absolute().as_posix()
    except RuntimeError:  # no user has this name, so `~x` is that of a file
        return Path(location).absolute().as_posix()


def canonical(location: str) -> str:
    """The one name of a place, however it is written: a real local path, or a URL whose path is encoded in one way.

    Of a query, only where the storage is counts.
    """
    if not is_url(location):
        return os.path.realpath(local_path(location))
    place, query = split_query(location)
    head, path = _split_path(place)
    if head.lower().startswith("file:"):
        return os.path.realpath(path_of(location))
    where = "&".join(sorted(part for part in query[1:].split("&") if part.startswith("endpoint")))
    scheme, colon, rest = head.partition(":")
    return scheme.lower() + colon + rest + quote(unquote(path), safe=PLAIN) + (f"?{where}" if where else "")


def canonical_names(locations: Iterable[str]) -> list[str]:
    """`canonical` of many files, each folder looked up once."""
    folders, names = dict[str, str](), list[str]()
    for location in locations:
        if is_url(location) and not location.lower().startswith("file:"):
            names.append(canonical(location))
            continue
        folder, _, name = path_of(location).rpartition("/")
        if folder not in folders:
            folders[folder] = os.path.realpath(folder or "/").rstrip("/")
        path = f"{folders[folder]}/{name}"
        names.append(os.path.realpath(path) if os.path.islink(path) else path)  # noqa: PTH114 - pathlib is slow
    return names


def _split_path(place: str) -> tuple[str, str]:
    """`s3://bucket/a/b` as `s3://bucket` and `/a/b`."""
    start = place.find("/", place.index("://") + 3)
    return (place, "") if start < 0 else (place[:start], place[start:])
