"""Column names of a table: checked against those that are wanted, and listed for messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from foundray.contract import Unreadable

LISTED = 20
"""Most names in a sentence, and most characters of each."""
LETTERS = 80


def check(names: Sequence[str], wanted: Iterable[str]) -> None:
    """Raises Unreadable for a wanted column that is missing or appears twice."""
    for name in wanted:
        if (count := names.count(name)) == 0:
            raise Unreadable(f"no column {name!r}; there are: {listed(names)}", unit="file")
        if count > 1:
            raise Unreadable(f"{count} columns are named {name!r}, so it is not clear which to read", unit="file")


def listed(names: Sequence[str]) -> str:
    """The names for a sentence, cut if there are very many, or very long ones."""
    short = [name if len(name) <= LETTERS else f"{name[:LETTERS]}..." for name in names[:LISTED]]
    # Control characters would disturb a terminal, and no file can hold half a surrogate pair: escape both.
    shown = [name if name.isprintable() else repr(name)[1:-1] for name in short]
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return (", ".join(shown) or "none") + rest
