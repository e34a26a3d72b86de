"""Plain text: documents, empty files, and content that is not text."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from foundray.data.files.files import find_files
from foundray.data.formats.lines import line_parts
from foundray.data.formats.not_text import looks_like
from foundray.data.formats.row import LONG, BadRow, Document, decode, text_of
from foundray.data.prepare.sources import read_documents
from foundray.spec import SourceConfig

LATIN = "convert it: iconv -f WINDOWS-1252 -t UTF-8"


def read(content: bytes, folder: Path, name: str = "a.txt", **fields: str) -> list[Document | BadRow]:
    (folder / name).write_bytes(content)
    source = SourceConfig(path=str(folder / name), **fields)  # type: ignore[arg-type]
    return [row for file in find_files(source) for row in read_documents(file, source)]


def texts(rows: list[Document | BadRow]) -> list[tuple[str, str]]:
    """(position, text) of each document."""
    return [(row.position, row.text) for row in rows if isinstance(row, Document)]


def bad(rows: list[Document | BadRow]) -> list[BadRow]:
    return [row for row in rows if isinstance(row, BadRow)]


def test_documents_know_where_they_are(tmp_path: Path) -> None:
    content = b"one\ntwo\n\n \nthree\r\n"
    assert texts(read(content, tmp_path)) == [("byte 0", content.decode())]
    assert texts(read(content, tmp_path, documents="line")) == [("line 1", "one"), ("line 2", "two"), ("line 5", "three")]
    assert texts(read(content, tmp_path, documents="paragraph")) == [("line 1", "one\ntwo"), ("line 5", "three")]
    assert not bad(read(content, tmp_path, documents="line"))


@pytest.mark.parametrize("content", [b"", b"\n", b" \t\r\n\r\n", b"\xef\xbb\xbf", "\u3000\n".encode(), b" \n" * LONG])
def test_white_space_alone_is_empty(content: bytes, tmp_path: Path) -> None:
    assert read(content, tmp_path) == [BadRow("byte 0", "empty", 0, "file")]
    assert not texts(read(content, tmp_path, documents="paragraph"))
    assert not texts(read(content, tmp_path, documents="line"))


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    for documents in ("file", "line", "paragraph"):
        assert [text for _, text in texts(read(b"\xef\xbb\xbfhello", tmp_path, documents=documents))] == ["hello"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("documents", ["file", "line", "paragraph"])
def test_wide_characters_cost_the_file_once(encoding: str, documents: str, tmp_path: Path) -> None:
    (row,) = read("hello\nworld\n\nagain\n".encode(encoding), tmp_path, documents=documents)
    assert isinstance(row, BadRow)
    assert (row.lost, row.unit) == (1, "file")
    assert "iconv -f UTF-" in row.reason
    assert "UTF-8" in row.reason


def test_latin_1_is_named(tmp_path: Path) -> None:
    content = "the café is open\nnaïve\n\nplain\n".encode("latin-1")
    (row,) = read(content, tmp_path)
    assert row == BadRow("byte 7", f"not UTF-8 (byte 0xe9): it looks like Latin-1 or Windows-1252; {LATIN}", 1, "file")
    rows = read(content, tmp_path, documents="line")
    assert texts(rows) == [("line 4", "plain")]
    assert [(row.position, row.unit, row.lost) for row in bad(rows)] == [("line 1", "line", 1), ("line 2", "line", 1)]
    assert "byte 0xe9 at offset 7" in bad(rows)[0].reason
    assert all(LATIN in row.reason for row in bad(rows))
    rows = read(content, tmp_path, documents="paragraph")
    assert texts(rows) == [("line 4", "plain")]
    assert [(row.position, row.unit, row.lost) for row in bad(rows)] == [("line 1", "paragraph", 1)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("“quoted” – 5 € for a long enough sentence".encode("cp1252"), LATIN),
        ("ends in é".encode("latin-1"), LATIN),
        ("naïve…".encode()[:-1], "(byte 0xe2 at offset 6): it ends within a character"),
        ("Привет, мир".encode("cp1251"), "not UTF-8 (byte 0xcf at offset 0)"),
        ("日本語のテキスト".encode("shift-jis"), "not UTF-8 (byte 0x93 at offset 0)"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "it looks like a PNG picture"),
        (gzip.compress(b"x", mtime=0), "it looks like gzip data (the file's name should end in .gz)"),
        (lzma.compress(b"x"), "it looks like xz data"),
        (bz2.compress(b"x"), "it looks like bzip2 data"),
        (np.arange(3).tobytes() + b"\xff", "not UTF-8 (byte 0xff"),
        (b"\xed\xa0\x80", "not UTF-8 (byte 0xed"),
        (b"PK\x03\x04" + bytes(26), "it looks like a ZIP archive or an Office document"),
        (b"SQLite format 3\0" + bytes(80), "it looks like an SQLite database"),
        (bytes(100), "holds NUL bytes, so it is not text (100 of 100 bytes, the first at offset 0)"),
        (b"text" * 1000 + bytes(8) + b"text" * 1000, "(8 of 8,008 bytes, the first at offset 4,000)"),
        (b"ab\0cd", "(1 of 5 bytes, the first at offset 2)"),
        (b"one\0two\0" * 100, "(200 of 800 bytes, the first at offset 3)"),
        ("text".encode("utf-16-le") * 9, "it looks like UTF-16LE: iconv -f UTF-16LE -t UTF-8 converts it"),
        ("text".encode("utf-32-be") * 9, "it looks like UTF-32BE"),
    ],
)
def test_reasons_say_what_bytes_look_like(content: bytes, said: str) -> None:
    found = decode(content, "line 3", unit="line")
    assert isinstance(found, BadRow)
    assert (found.position, found.lost, found.unit) == ("line 3", 1, "line")
    assert said in found.reason


def test_bytes_of_other_scripts_are_not_called_latin() -> None:
    for content in ("Привет, мир".encode("koi8-r"), "中文文本".encode("gbk"), "日本語".encode("euc-jp"), b"\x00\xff\x12\xfe"):
        found = decode(content, "line 1")
        assert isinstance(found, BadRow)
        assert "Latin" not in found.reason


def test_a_tar_archive_is_known_by_its_header() -> None:
    assert looks_like(bytes(257) + b"ustar\0") == "a tar archive (format: webdataset)"
    assert looks_like(b"plain") == ""


def test_strays_of_nul_are_text() -> None:
    found = decode(b"a" * 999 + b"\0", "line 1")
    assert isinstance(found, Document)
    assert found.text.endswith("a\0")
    assert isinstance(decode(b"a" * 998 + b"\0", "line 1"), BadRow)


def test_values_of_fields_are_held_to_the_same_rules() -> None:
    assert text_of("text", "row 1", "body") == Document("text")
    assert text_of(b"text", "row 1", "body") == Document("text")
    for value, reason in (
        (None, "'body' is missing"),
        (3, "'body' is not text"),
        ("a\ud800", "holds half a surrogate pair, which is not Unicode text"),
        ("ab\0cd", "holds NUL bytes, so it is not text (1 of 5 bytes, the first at offset 2)"),
        ("é\0" * 5, "holds NUL bytes, so it is not text (5 of 15 bytes, the first at offset 2)"),
    ):
        assert text_of(value, "row 1", "body") == BadRow("row 1", reason)
    assert text_of(" \n", "row 1", "body") == text_of("", "row 1", "body") == BadRow("row 1", "empty", 0)
    long = text_of("é" * LONG, "row 1", "body")
    assert isinstance(long, Document)
    assert (long.size, long.long, long.position) == (2 * LONG, True, "row 1")


def test_a_hole_in_a_file_costs_the_line_that_it_is_in(tmp_path: Path) -> None:
    rows = read(b"one\ntwo" + bytes(4096) + b"\nthree\n", tmp_path, documents="line")
    assert texts(rows) == [("line 1", "one"), ("line 3", "three")]
    (row,) = bad(rows)
    assert (row.position, row.lost, row.unit) == ("line 2", 1, "line")


def test_lines_before_a_break_are_used(tmp_path: Path) -> None:
    rng = random.Random(0)
    lines = [rng.randbytes(40).hex() for _ in range(3000)]
    whole = gzip.compress("\n".join(lines).encode())
    rows = read(whole[: len(whole) // 2], tmp_path, "a.txt.gz", documents="line")
    used = [text for _, text in texts(rows)]
    assert 500 < len(used) < 3000
    assert used == lines[: len(used)]
    (row,) = bad(rows)
    assert (row.position, row.lost) == (f"line {len(used) + 1}", 1)
    rows = read(whole[: len(whole) // 2], tmp_path, "a.txt.gz", documents="paragraph")
    assert [text for _, text in texts(rows)] == ["\n".join(lines[: len(used)])]
    (row,) = read(whole[: len(whole) // 2], tmp_path, "a.txt.gz")
    assert (row.position, row.lost, row.unit) == ("byte 0", 1, "file")  # type: ignore[union-attr]


def test_a_long_line_that_breaks_off_is_lost(tmp_path: Path) -> None:
    whole = gzip.compress(b"short\n" + random.Random(0).randbytes(2 * LONG).hex().encode())
    for documents in ("line", "paragraph"):
        rows = read(whole[:-100_000], tmp_path, "a.txt.gz", documents=documents)
        assert [text for _, text in texts(rows)] == (["short"] if documents == "line" else [])
        assert [(row.position, row.lost) for row in bad(rows)] == [("line 2", 1)]


def test_garbage_after_a_compressed_stream_costs_no_line(tmp_path: Path) -> None:
    content = gzip.compress(b"one\ntw") + b"junk" + gzip.compress(b"o\nthree")
    for documents, wanted in (
        ("file", ["one\ntwo\nthree"]),
        ("line", ["one", "two", "three"]),
        ("paragraph", ["one\ntwo\nthree"]),
    ):
        rows = read(content, tmp_path, "a.txt.gz", documents=documents)
        assert [text for _, text in texts(rows)] == wanted
        assert "are not gzip" in bad(rows)[0].reason


@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"])
def test_lines_and_paragraphs_longer_than_what_is_held(ends: bytes, tmp_path: Path) -> None:
    long = b"words " * (LONG // 4)
    content = ends.join([b"one", long + b"end", b"", b"a", long + b"b", b"c", b"", b"two"])
    found = [text for _, text in texts(read(content, tmp_path, documents="line"))]
    assert found == ["one", long.decode() + "end", "a", long.decode() + "b", "c", "two"]
    found = [text for _, text in texts(read(content, tmp_path, documents="paragraph"))]
    assert found == [f"one\n{long.decode()}end", f"a\n{long.decode()}b\nc", "two"]


def test_parts_of_lines_make_the_lines() -> None:
    rng = random.Random(1)
    for ends in (b"\n", b"\r\n", b"\r"):
        lines = [rng.randbytes(rng.choice([0, 1, 10, 3 * 2**20])).replace(b"\n", b"").replace(b"\r", b"") for _ in range(12)]
        found: dict[int, bytes] = {}
        for number, part, _ in line_parts(pa.BufferReader(b"ab" + ends + ends.join([*lines, b"x"])), "a"):
            assert isinstance(part, bytes)
            assert len(part) < 2.1 * 2**20
            found[number] = found.get(number, b"") + part
        assert list(found.values()) == [b"ab", *lines, b"x"]
