"""Globs: `*` and `?` stay inside a folder, `**` crosses folders; `[a-c]`, `[!a]` and `{a,b}` work as in a shell.

A path that exists literally is no glob. In a URL, percent-encoded characters stand for themselves.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from foundray.storage import Store
from foundray.urls import is_url, split_query

_CLASS = r"\[[!^]?\]?[^\]/]*\]"
_CHOICE = r"\{[^{}/]*,[^{}/]*\}"
_WILD = re.compile(rf"[*?]|{_CLASS}|{_CHOICE}")
_TOKEN = re.compile(rf"\*\*/|\*\*|\*|\?|{_CLASS}|{_CHOICE}|.", re.DOTALL)


def split_glob(path: str) -> tuple[str, str]:
    """(folder, pattern): `data/**/*.txt` as `data` and `**/*.txt`, other paths with an empty pattern.

    Raises InputError if the storage cannot be read.
    """
    location, query = split_query(path)
    parts = location.split("/")
    # The folder is all parts before the first with a wildcard that does not exist literally.
    end = 3 if is_url(path) else 0  # a bucket's name has no wildcards
    while end < len(parts):
        literal = "/".join(parts[: end + 1])
        if _WILD.search(parts[end]) and not Store.at(literal + query).exists():
            break
        end += 1
    if end == len(parts):
        return path, ""
    base = "/".join(parts[:end])
    if not base or base.endswith("://"):  # `*.txt`, `/*.txt` and `file:///*.txt`
        base += "/" if base or path.startswith("/") else "."
    pattern = "/".join(parts[end:])
    return base + query, _decoded(pattern) if is_url(path) else pattern


def glob_regex(pattern: str) -> re.Pattern[str]:
    """The regular expression that a whole name inside the folder must match."""
    return re.compile(_regex(pattern), re.DOTALL)


def glob_depth(pattern: str) -> int | None:
    """Levels of folders that a pattern reaches; None for all."""
    return None if "**" in pattern else pattern.count("/") + 1


def _regex(pattern: str) -> str:
    table = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(table.get(token) or _token_regex(token) for token in _TOKEN.findall(pattern))


def _token_regex(token: str) -> str:
    if len(token) == 1:
        return re.escape(token)
    # {a,b}: one of several patterns.
    if token[0] == "{":
        return f"(?:{'|'.join(map(_regex, token[1:-1].split(',')))})"
    # [a-c] or [!a]: a class of characters, never a slash.
    negated = token[1] in "!^"
    letters = token[2:-1] if negated else token[1:-1]
    plain = re.sub(r"([]\\[&~|^])", r"\\\1", letters)
    found = f"[^/{plain}]" if negated else f"[{plain}]"
    try:
        re.compile(found)
    except re.error:  # empty brackets, or a reversed range such as z-a
        return re.escape(token)
    return found if letters else re.escape(token)


def _decoded(pattern: str) -> str:
    """The pattern with percent-encoding resolved; wildcards that were encoded stand for themselves."""
    return re.sub(r"(?:%[0-9A-Fa-f]{2})+", lambda found: re.sub(r"[*?\[{]", r"[\g<0>]", unquote(found[0])), pattern)
