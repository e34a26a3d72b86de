"""FASTA: a document is a sequence of nucleotides."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from foundray.contract import Unreadable
from foundray.data.formats.lines import is_whole, line_parts
from foundray.data.formats.row import BadRow, Document, DocumentBuilder, empty
from foundray.spec import SourceConfig

BASES = b"ACGTN"
AMBIGUOUS = b"RYSWKMBDHV"
"""IUPAC's letters for ambiguous bases: they become N."""
LETTERS = bytes.maketrans(b"acgtn" + AMBIGUOUS.lower() + AMBIGUOUS + b"uU", BASES + 2 * len(AMBIGUOUS) * b"N" + b"TT")
"""Maps letters to BASES: small letters, which mark repeats, to capitals; RNA's U to T."""
SPACE = b" \t\v\f\r\n"
REWRITES = (
    (r"[ \t\v\f\r\n]+", ""), ("a", "A"), ("c", "C"), ("g", "G"), ("n", "N"), ("[tuU]", "T"),
    (f"[{AMBIGUOUS.decode()}{AMBIGUOUS.decode().lower()}]", "N"),
)  # fmt: skip
"""LETTERS and SPACE as regular expressions and what replaces their matches, in order, for texts that are in no file."""
GAPS = b"-.*"
NAME_LENGTH = 200
"""Most bytes of a header from which a sequence's name is taken."""


def read(handle: pa.NativeFile, path: str, source: SourceConfig) -> Iterator[Document | BadRow]:
    """Each sequence as a document, in capitals; letters for ambiguous bases become N.

    Lines that start with `;` are comments. Letters before the first header are a sequence without a name. A letter that is not
    a nucleotide costs its sequence.
    """
    sequence: _Sequence | None = None
    kind, begins = b"", True  # the first byte of the line, and whether the next part begins a line
    for number, part, ends in line_parts(handle, path):
        # Damage costs the current sequence, unless no content is missing.
        if isinstance(part, Unreadable):
            damage = BadRow.of(part, f"line {number}")
            if is_whole(part):
                yield damage
            else:
                yield sequence.cut_off(damage) if sequence else damage
                sequence, begins = None, True
            continue
        # A header ends the sequence before it.
        if begins:
            kind = part[:1]
            if kind == b">":
                if sequence is not None:
                    yield sequence.document()
                sequence = _Sequence(part[1:], number)
        # Letters of the current sequence.
        begins = ends
        if kind not in (b">", b";") and (letters := part.translate(LETTERS, SPACE)):
            sequence = sequence or _Sequence(b"", number)
            sequence.add(letters, number)
    if sequence is not None:
        yield sequence.document()


class _Sequence:
    """The sequence being read."""

    def __init__(self, header: bytes, line: int):
        words = header[:NAME_LENGTH].split(None, 1)
        name = words[0].decode("utf-8", "replace") if words else ""
        self.name = f"sequence {name}" if name else "a sequence without a name"
        self.position = f"sequence {name}" if name else f"line {line}"
        self.letters = DocumentBuilder(self.position, unit="sequence")
        self.bad: BadRow | None = None

    def add(self, letters: bytes, line: int) -> None:
        if self.bad is None and (invalid := letters.translate(None, BASES)):
            self.bad = BadRow(f"line {line}", f"{_not_a_nucleotide(invalid[0])} ({self.name})", 1, "sequence")
        if self.bad is None:
            self.letters.add(letters)

    def cut_off(self, damage: BadRow) -> BadRow:
        """A BadRow for damage in the sequence or after it; the two cannot be distinguished."""
        return BadRow(damage.position, f"{damage.reason}; {self.name} may be incomplete, and is not used", 1, "sequence")

    def document(self) -> Document | BadRow:
        if self.bad is not None:
            return self.bad
        return self.letters.document() if self.letters.size else empty(self.position, "sequence")


def _not_a_nucleotide(byte: int) -> str:
    if byte in GAPS:
        return f"'{chr(byte)}' is a gap or a stop, not a nucleotide: aligned sequences and proteins are not read"
    return f"{chr(byte)!r} is not a nucleotide" if byte < 0x80 else f"byte 0x{byte:02x} is not a nucleotide"
