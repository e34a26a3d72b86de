"""Globs: `*` and `?` stay inside a folder, `**` crosses folders; `[a-c]`, `[!a]` and `{a,b}` are as in a shell.

What exists by the very name is meant by it. In a URL, percent-encoded characters stand for themselves.
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
    """`data/**/*.txt` as `data` and `**/*.txt`, or the path and nothing. Raises InputError if that cannot be looked up."""
    place, query = split_query(path)
    parts = place.split("/")
    end = 3 if is_url(path) else 0  # the name of a bucket has no wildcards
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
    """What a name inside the folder has to match as a whole."""
    return re.compile(_regex(pattern), re.DOTALL)


def glob_depth(pattern: str) -> int | None:
    """How many levels of folders it looks into; None for all."""
    return None if "**" in pattern else pattern.count("/") + 1


def _regex(pattern: str) -> str:
    table = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(table.get(token) or _one(token) for token in _TOKEN.findall(pattern))


def _one(token: str) -> str:
    if len(token) == 1:
        return re.escape(token)
    if token[0] == "{":
        return f"(?:{'|'.join(map(_regex, token[1:-1].split(',')))})"
    negated = token[1] in "!^"
    letters = token[2:-1] if negated else token[1:-1]
    plain = re.sub(r"([]\\[&~|^])", r"\\\1", letters)
    found = f"[^/{plain}]" if negated else f"[{plain}]"
    try:
        re.compile(found)
    except re.error:  # nothing between the brackets, or from z to a
        return re.escape(token)
    return found if letters else re.escape(token)


def _decoded(pattern: str) -> str:
    """With what was percent-encoded as characters that are no wildcards."""
    return re.sub(r"(?:%[0-9A-Fa-f]{2})+", lambda found: re.sub(r"[*?\[{]", r"[\g<0>]", unquote(found[0])), pattern)
