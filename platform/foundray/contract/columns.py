"""The names of a table's columns: those that are wanted, and sentences about those that are there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from foundray.contract import Unreadable

LISTED = 20
"""Names in a sentence, at most, and characters of each."""
LETTERS = 80


def check(names: Sequence[str], wanted: Iterable[str]) -> None:
    """Raises Unreadable for a wanted column that is not there, or is there twice."""
    for name in wanted:
        if (count := names.count(name)) == 0:
            raise Unreadable(f"no column {name!r}; there are: {listed(names)}", unit="file")
        if count > 1:
            raise Unreadable(f"{count} columns are named {name!r}, so it is not clear which to read", unit="file")


def listed(names: Sequence[str]) -> str:
    """The names for a sentence: the first of very many, the start of very long ones."""
    short = [name if len(name) <= LETTERS else f"{name[:LETTERS]}..." for name in names[:LISTED]]
    # What a terminal must not be sent, and half a surrogate pair, which no file takes, are shown as escapes.
    shown = [name if name.isprintable() else repr(name)[1:-1] for name in short]
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return (", ".join(shown) or "none") + rest
