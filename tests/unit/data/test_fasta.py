"""FASTA: a bad sequence costs only itself, whatever the length of the others."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from foundray.data.files.files import find_files
from foundray.data.formats.row import LONG, BadRow, Document, empty
from foundray.data.prepare.sources import read_documents
from foundray.spec import SourceConfig


def read(content: bytes, folder: Path, name: str = "a.fa") -> list[Document | BadRow]:
    (folder / name).write_bytes(content)
    source = SourceConfig(path=str(folder / name), format="fasta")
    return [row for file in find_files(source) for row in read_documents(file, source)]


def texts(rows: list[Document | BadRow]) -> list[tuple[str, str]]:
    return [(row.position, row.text) for row in rows if isinstance(row, Document)]


@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r", b"\n\n", b" \n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_blank_lines_and_byte_order_marks(ends: bytes, mark: bytes, tmp_path: Path) -> None:
    content = mark + ends.join([b">s1 a description", b"ACGT", b"GG", b">s2", b"TTTT"]) + ends
    assert read(content, tmp_path) == [Document("ACGTGG"), Document("TTTT")]
    assert [position for position, _ in texts(read(content, tmp_path))] == ["sequence s1", "sequence s2"]


def test_letters(tmp_path: Path) -> None:
    content = b">soft masked\nacgtACGTn\n>uncertain\nRYSWKMBDHVryswkmbdhv\n>rna\nACGUu\n>spaced\nACGT ACGT\tAC\n"
    assert [text for _, text in texts(read(content, tmp_path))] == ["ACGTACGTN", "N" * 20, "ACGTT", "ACGTACGTAC"]


def test_comments_headers_and_letters_without_one(tmp_path: Path) -> None:
    rows = read(b";LCBO - an old comment\nACGT\n; another\nAC\n>a\nGG\n;within\nTT\n>\nAA\n> b\nCC\n>a\nGG\n", tmp_path)
    assert texts(rows) == [
        ("line 2", "ACGTAC"), ("sequence a", "GGTT"), ("line 9", "AA"), ("sequence b", "CC"), ("sequence a", "GG")
    ]  # fmt: skip
    assert len(rows) == 5


def test_headers_without_a_sequence_are_empty(tmp_path: Path) -> None:
    rows = read(b">a\n>b\n\n>\n>c\nAC\n>d", tmp_path)
    assert texts(rows) == [("sequence c", "AC")]
    positions = [row.position for row in rows if isinstance(row, BadRow)]
    assert positions == ["sequence a", "sequence b", "line 4", "sequence d"]
    assert all((row.reason, row.lost, row.unit) == ("empty", 0, "sequence") for row in rows if isinstance(row, BadRow))
    assert read(b"", tmp_path) == read(b"\n \n", tmp_path) == [empty("byte 0", "file")]


@pytest.mark.parametrize(
    ("letters", "reason"),
    [
        (
            b"ACGT\nAC-T\nEE",
            "'-' is a gap or a stop, not a nucleotide: aligned sequences and proteins are not read (sequence bad)",
        ),
        (b"AC\nMKV*", "'*' is a gap or a stop, not a nucleotide: aligned sequences and proteins are not read (sequence bad)"),
        (b"AC\nMEFL-", "'E' is not a nucleotide (sequence bad)"),
        (b"AC\nAC\xe9", "byte 0xe9 is not a nucleotide (sequence bad)"),
        (b"AC\n12 AC", "'1' is not a nucleotide (sequence bad)"),
        (b"AC\nAC\0", "'\\x00' is not a nucleotide (sequence bad)"),
    ],
)
def test_a_letter_that_is_no_nucleotide_costs_its_sequence(letters: bytes, reason: str, tmp_path: Path) -> None:
    rows = read(b">first\nACGT\n>bad one\n" + letters + b"\nACGT\n>last\nGG\n", tmp_path)
    assert texts(rows) == [("sequence first", "ACGT"), ("sequence last", "GG")]
    assert [row for row in rows if isinstance(row, BadRow)] == [BadRow("line 5", reason, 1, "sequence")]


def test_a_sequence_that_breaks_off_is_lost(tmp_path: Path) -> None:
    letters = "".join(random.Random(0).choices("ACGT", k=200_000))
    content = gzip.compress(f">a\nACGT\n>b\n{letters}\n>c\nGG\n".encode())
    rows = read(content[: len(content) // 2], tmp_path, "a.fa.gz")
    assert texts(rows) == [("sequence a", "ACGT")]
    (row,) = [row for row in rows if isinstance(row, BadRow)]
    assert (row.lost, row.unit) == (1, "sequence")
    assert row.reason.endswith("; sequence b may be incomplete, and is not used")


def test_a_wide_encoding_costs_the_file_once(tmp_path: Path) -> None:
    (row,) = read(">a\nACGT\n>b\nACGT\n".encode("utf-16"), tmp_path)
    assert isinstance(row, BadRow)
    assert (row.lost, row.unit) == (1, "file")


@pytest.mark.parametrize("columns", [60, 5 * 2**20])
def test_a_long_chromosome_is_kept_in_a_file(columns: int, tmp_path: Path) -> None:
    letters = "".join(random.Random(1).choices("ACGTNacgt", k=LONG)) * 3
    lines = "\n".join(letters[at : at + columns] for at in range(0, len(letters), columns))
    first, last = read(f">chr1 {'of wheat ' * 10}\n{lines}\n>chr2\nAC\n".encode(), tmp_path)
    assert isinstance(first, Document)
    assert not isinstance(first.content, str)
    assert first.text == letters.upper()
    assert last == Document("AC")


def test_a_header_longer_than_what_is_held(tmp_path: Path) -> None:
    rows = read(b">" + b"name" * LONG + b" more\nACGT\n>b\nGG\n", tmp_path)
    assert [text for _, text in texts(rows)] == ["ACGT", "GG"]
    assert max(len(position) for position, _ in texts(rows)) < 300
