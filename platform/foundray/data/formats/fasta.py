"""FASTA: a document is a sequence of nucleotides."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from foundray.data.formats.lines import numbered_lines
from foundray.data.formats.row import BadRow, Document, empty
from foundray.spec import Source

AMBIGUOUS = str.maketrans("RYSWKMBDHVU", "NNNNNNNNNNT")
"""IUPAC's letters for a base that is not known for sure, and RNA's U."""


def read(handle: pa.NativeFile, path: str, source: Source) -> Iterator[Document | BadRow]:
    """Each sequence is a document, in capitals; letters for uncertain bases become N."""
    name, bad = "", None
    parts: list[str] = []
    for number, line in numbered_lines(handle, path):
        if isinstance(line, BadRow):
            yield line
            return
        if line.startswith(b">"):
            yield from _sequence(name, parts, bad)
            name, parts, bad = line[1:].split(b" ")[0].decode("ascii", "replace"), [], None
        elif line.strip():
            letters = line.strip().decode("ascii", "replace").upper().translate(AMBIGUOUS)
            if (strange := set(letters) - set("ACGTN")) and bad is None:
                bad = BadRow(f"line {number}", f"{min(strange)!r} is no nucleotide (sequence {name or 'without a name'})")
            parts.append(letters)
    yield from _sequence(name, parts, bad)


def _sequence(name: str, parts: list[str], bad: BadRow | None) -> Iterator[Document | BadRow]:
    if bad:
        yield bad
    elif parts:
        yield Document("".join(parts))
    elif name:
        yield empty(f"sequence {name}", "sequence")
