"""Local paths and URLs as text, without access to a filesystem."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote

PLAIN = "/!$&'()*+,;=:@"
"""Characters not encoded in the path of a URL, besides letters, digits and `-._~` (RFC 3986)."""
WILD = "[]{}?*"
"""Characters of globs: not encoded in a URL until it is opened."""


def is_url(location: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", location) is not None


def split_query(url: str) -> tuple[str, str]:
    """Split `s3://bucket/runs?region=eu-central-1` into `s3://bucket/runs` and `?region=eu-central-1`.

    The query is empty for a local path or file, and if `?` is part of a name: a query begins with a field and `=`.
    """
    remote = is_url(url) and not url.lower().startswith("file:")
    found = re.match(r"(.*?)(\?[A-Za-z][A-Za-z0-9_]*=.*)?$", url, re.DOTALL) if remote else None
    return (found[1], found[2] or "") if found else (url, "")


def encoded(url: str, keep: str = "") -> str:
    """Percent-encode the characters that a URL's path must not have, except those in `keep`.

    Encoded characters stay as they are. `#` is part of a name, since storage has no fragments.
    """
    base, query = split_query(url)
    head, path = _split_path(base)
    path = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", path)
    return head + quote(path, safe=PLAIN + "%" + keep) + query


def inside(location: str, name: str) -> str:
    """Location of `name` in a folder: verbatim in a local path, encoded in a URL."""
    if not is_url(location):
        return posixpath.join(location, name)
    base, query = split_query(location)
    return posixpath.join(base, quote(name, safe=PLAIN)) + query


def outside(location: str) -> str:
    """Location of the parent folder."""
    base, query = split_query(location)
    return posixpath.dirname(base.rstrip("/")) + query


def path_of(location: str) -> str:
    """A local path unchanged, or the decoded path of a URL."""
    if not is_url(location):
        return location
    return unquote(_split_path(split_query(location)[0])[1], errors="surrogateescape")


def local_path(location: str) -> str:
    """Make a path absolute, without resolving links."""
    try:
        return Path(location).expanduser().absolute().as_posix()
    except RuntimeError:  # no user has this name, so `~x` is a file's name
        return Path(location).absolute().as_posix()


def canonical(location: str) -> str:
    """The canonical name of a location: a real local path, or a URL with a normalised path.

    Of a query, only the endpoint counts: it says where the storage is.
    """
    if not is_url(location):
        return os.path.realpath(local_path(location))
    base, query = split_query(location)
    head, path = _split_path(base)
    if head.lower().startswith("file:"):
        return os.path.realpath(path_of(location))
    endpoint = "&".join(sorted(part for part in query[1:].split("&") if part.startswith("endpoint")))
    scheme, colon, rest = head.partition(":")
    return scheme.lower() + colon + rest + quote(unquote(path), safe=PLAIN) + (f"?{endpoint}" if endpoint else "")


def canonical_names(locations: Iterable[str]) -> list[str]:
    """`canonical` of many files; looks up each folder once."""
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


def _split_path(url: str) -> tuple[str, str]:
    """Split `s3://bucket/a/b` into `s3://bucket` and `/a/b`."""
    start = url.find("/", url.index("://") + 3)
    return (url, "") if start < 0 else (url[:start], url[start:])
