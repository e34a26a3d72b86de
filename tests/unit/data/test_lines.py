"""Lines: byte order marks, line ends, encodings that are not read, and lines that are too long."""

from __future__ import annotations

import gzip
import tracemalloc

import pyarrow as pa
import pytest

from foundray.data.formats.lines import CHUNK, content, is_whole, line_parts, numbered_lines
from foundray.data.formats.row import BadRow


def lines(content: bytes, name: str = "a", **options: int) -> list[tuple[int, bytes | BadRow]]:
    return list(numbered_lines(pa.BufferReader(content), name, **options))


def bad(found: list[tuple[int, bytes | BadRow]]) -> list[BadRow]:
    return [line for _, line in found if isinstance(line, BadRow)]


def test_ends_of_lines() -> None:
    assert lines(b"a\r\nb\n\nc") == [(1, b"a"), (2, b"b"), (3, b""), (4, b"c")]
    assert lines(b"a\rb\r\rc\r") == [(1, b"a"), (2, b"b"), (3, b""), (4, b"c")]
    assert lines(b"a\rstays\nb") == [(1, b"a\rstays"), (2, b"b")]
    assert lines(b"") == []
    assert lines(b"\n") == [(1, b"")]


def test_lines_across_chunks() -> None:
    written = [bytes([97 + n % 26]) * (n * 7919 % 300_000) for n in range(60)]
    assert [line for _, line in lines(b"\n".join(written))] == written
    assert [line for _, line in lines(b"\r".join(written))] == written
    assert [number for number, _ in lines(b"\n".join(written))] == list(range(1, 61))


def test_a_byte_order_mark_belongs_to_no_line() -> None:
    assert lines(b"\xef\xbb\xbfa\nb") == [(1, b"a"), (2, b"b")]
    assert lines(b"\xef\xbb\xbf") == []
    assert list(content(pa.BufferReader(gzip.compress(b"\xef\xbb\xbfabc")), "a.gz")) == [b"abc"]


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-16", "UTF-16 by its byte order mark, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8"),
        ("utf-32", "UTF-32 by its byte order mark, not UTF-8; convert it: iconv -f UTF-32 -t UTF-8"),
        ("utf-16-le", "it looks like UTF-16LE, not UTF-8; convert it: iconv -f UTF-16LE -t UTF-8"),
        ("utf-16-be", "it looks like UTF-16BE, not UTF-8; convert it: iconv -f UTF-16BE -t UTF-8"),
    ],
)
def test_utf_16_is_one_sentence(encoding: str, said: str) -> None:
    assert lines(("a line of text\n" * 1000).encode(encoding)) == [(1, BadRow("line 1", said, 1, "file"))]


def test_a_line_that_is_too_long_is_one_row() -> None:
    found = lines(b"a\n" + b"b" * 5000 + b"\nc\n" + b"d" * 11, longest=10)
    assert found == [
        (1, b"a"),
        (2, BadRow("line 2", "a line of 5,000 bytes; at most 10 are read")),
        (3, b"c"),
        (4, BadRow("line 4", "a line of 11 bytes; at most 10 are read")),
    ]
    assert lines(b"b" * 10 + b"\r\n" + b"c" * 10, longest=11) == [(1, b"b" * 10), (2, b"c" * 10)]


def test_memory_does_not_grow_with_lines_that_are_too_long() -> None:
    packed = gzip.compress(b"x" * (48 * CHUNK) + b"\nshort\n", 1)
    tracemalloc.start()
    found = lines(packed, "a.gz", longest=4 * CHUNK)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[1:] == [(2, b"short")]
    assert peak < 24 * CHUNK


def test_the_cut_line_of_a_cut_stream_is_not_used() -> None:
    packed = gzip.compress(b"one\ntwo\nthree", mtime=0)
    found = lines(packed[:-9], "a.gz")
    assert found[:2] == [(1, b"one"), (2, b"two")]
    assert [(row.position, row.unit) for row in bad(found)] == [("line 3", "part")]
    assert len(found) == 3
    # Garbage costs no line: the last one is whole.
    found = lines(packed + b"garbage", "a.gz")
    assert [line for _, line in found if isinstance(line, bytes)] == [b"one", b"two", b"three"]
    assert len(bad(found)) == 1


def test_lines_after_a_damaged_member_are_whole() -> None:
    def packed(content: bytes) -> bytes:
        return gzip.compress(content, mtime=0)

    damaged = bytearray(packed(b"xx\nyy\n"))
    damaged[-6] ^= 1  # the checksum
    found = lines(packed(b"a\nb\n") + damaged + packed(b"c\nd\n"), "a.gz")
    assert [line for _, line in found if isinstance(line, bytes)] == [b"a", b"b", b"c", b"d"]
    # Members that end inside lines, as bgzip's do: the rest of a line after the gap is no line.
    found = lines(packed(b"a\nb") + damaged + packed(b"c\nd\n"), "a.gz")
    assert [line for _, line in found if isinstance(line, bytes)] == [b"a", b"d"]


def test_parts_of_lines_are_the_lines() -> None:
    written = [bytes([97 + n % 26]) * (n * 7919 % 3_000_000) for n in range(9)]
    for end in (b"\n", b"\r\n", b"\r"):
        found = list[bytes]()
        starts = True
        for number, part, ends in line_parts(pa.BufferReader(end.join(written)), "a", 100_000):
            assert isinstance(part, bytes)
            found = [*found, part] if starts else [*found[:-1], found[-1] + part]
            assert number == len(found)
            starts = ends
        assert found == written


def test_content_comes_up_to_the_break_and_then_what_is_missing() -> None:
    packed = gzip.compress(b"some text")
    for stream, whole, said in ((packed + b"garbage", True, "7 bytes at byte"), (packed[:-8], False, "it is cut off")):
        part, broken = content(pa.BufferReader(stream), "a.gz")
        assert part == b"some text"
        assert not isinstance(broken, bytes)
        assert str(broken).startswith(f"the compressed stream is broken: {said}")
        assert is_whole(broken) == whole
