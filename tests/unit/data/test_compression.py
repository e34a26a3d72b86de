"""Compressed files: every member, padding, and what is damaged, cut off or no such file."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard

from foundray.data.compression import Broken, decompressed, kind_of


def _lz4(content: bytes) -> bytes:
    with pa.CompressedOutputStream(sink := pa.BufferOutputStream(), "lz4") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda content: gzip.compress(content, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    ".lz4": _lz4,
}
LINES = [b"%d %d" % (n, random.Random(n).randrange(10**9)) for n in range(9000)]
TEXT = b"".join(line + b"\n" for line in LINES)
LONG = b"".join(b"%d\n" % n for n in range(60_000))
"""Several blocks of Zstandard and LZ4."""
each_kind = pytest.mark.parametrize("ending", PACK)


def unpacked(content: bytes, name: str) -> tuple[bytes, list[Broken]]:
    """All that can be read, and what is said in between."""
    stream, found, said = decompressed(pa.BufferReader(content), name), b"", []
    while True:
        try:
            if not (part := stream.read1(1000)):
                return found, said
            found += part
        except Broken as broken:
            said.append(broken)


@each_kind
def test_members_and_padding_are_read_as_their_own_programs_do(ending: str) -> None:
    pack = PACK[ending]
    one, two = pack(TEXT), pack(b"the end")
    for content, right in (
        (one, TEXT),
        (one + two, TEXT + b"the end"),
        (one + bytes(1024), TEXT),
        (two + bytes(13) + one + bytes(4), b"the end" + TEXT),
        (pack(b"") + two, b"the end"),
        (b"", b""),
    ):
        assert unpacked(content, f"a{ending}") == (right, [])
    assert unpacked(one, f"A{ending.upper()}") == (TEXT, [])


@each_kind
def test_garbage_behind_the_content_is_told_and_costs_nothing(ending: str) -> None:
    one, two = PACK[ending](TEXT), PACK[ending](b"the end")
    for content, right in ((one + b"garbage" * 3, TEXT), (one + b"garbage" * 3 + two, TEXT + b"the end")):
        found, (broken,) = unpacked(content, f"a{ending}")
        assert found == right
        assert broken.whole
        assert str(broken).startswith(f"21 bytes at byte {len(one):,}, behind the end of its content, are not ")
        assert (broken.lost, broken.unit) == (1, "part")


@each_kind
def test_of_a_cut_stream_all_that_came_out_is_read(ending: str) -> None:
    content = PACK[ending](LONG)
    found, (broken,) = unpacked(content[: len(content) * 9 // 10], f"a{ending}")
    assert LONG.startswith(found)
    assert ending == ".bz2" or len(found) > len(LONG) // 2  # its blocks of 900 kB are all or nothing
    assert str(broken).startswith("it is cut off, at byte ")
    assert not broken.whole
    found, _ = unpacked(content[:-1], f"a{ending}")  # the checksum is cut, and nothing of the content
    assert found == LONG


def damaged(content: bytes, ending: str) -> bytes:
    """With one bit flipped: where LZ4 says how large its first block is, since pyarrow's has no checksum."""
    place = 9 if ending == ".lz4" else len(content) // 2
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


@each_kind
def test_a_damaged_member_costs_no_other(ending: str) -> None:
    pack = PACK[ending]
    small, broken_one = pack(b"small\n"), damaged(pack(TEXT), ending)
    found, (broken,) = unpacked(small + broken_one + small, f"a{ending}")
    assert found.startswith(b"small\n")
    assert found.endswith(b"small\n")
    assert f"reading continues at byte {len(small) + len(broken_one):,}" in str(broken)
    assert broken.line
    # One that is cut runs on into the next.
    cut = pack(TEXT)[:-1000]
    found, (broken,) = unpacked(cut + small, f"a{ending}")
    assert found.endswith(b"small\n")
    assert f"reading continues at byte {len(cut):,}" in str(broken)


def test_nothing_of_a_damaged_block_of_bzip2_is_used() -> None:
    """Its checksum is tried when the whole block came out, scrambled."""
    text = os.urandom(700_000).hex().encode()  # two blocks
    content = bytearray(bz2.compress(text))
    content[-1000] ^= 1
    found, (broken,) = unpacked(bytes(content), "a.bz2")
    assert text.startswith(found)
    assert len(found) > 400_000
    assert "the bz2 file" in str(broken)


@each_kind
def test_a_name_that_promises_too_much_is_one_sentence(ending: str) -> None:
    found, (broken,) = unpacked(b"plain text\n" * 1000, f"a{ending}")
    assert found == b""
    assert str(broken) in (f"it is no {kind} file, though its name says so" for kind in ("gzip", "bz2", "xz", "zstd", "lz4"))
    other = ".xz" if ending == ".gz" else ".gz"
    _, (broken,) = unpacked(PACK[other](TEXT), f"a{ending}")
    assert str(broken).endswith(f"though its name says so: its content is {'xz' if other == '.xz' else 'gzip'}")
    assert (broken.lost, broken.unit) == (1, "file")


def test_kinds_by_their_first_bytes() -> None:
    kinds = [kind_of(pack(b"x")[:16]) for pack in PACK.values()]
    assert kinds == ["gzip", "bz2", "xz", "zstd", "lz4"]
    assert kind_of(b"some text") is None


def test_frames_of_zstandard_that_hold_nothing_are_skipped() -> None:
    skipped = b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"12345"
    one = PACK[".zst"](b"one")
    assert unpacked(skipped + one + skipped + one + skipped, "a.zst") == (b"oneone", [])
    streamed = zstandard.ZstdCompressor().compressobj()  # a frame that does not say its size
    assert unpacked(streamed.compress(TEXT) + streamed.flush() + one, "a.zst") == (TEXT + b"one", [])


@pytest.mark.parametrize("options", [["-c"], ["-c", "--content-size"], ["-c", "-B4", "-BX"], ["-c", "--no-frame-crc"]])
def test_what_the_lz4_program_writes(options: list[str], tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(TEXT)
    try:
        packed = subprocess.run(["lz4", "-q", *options, str(tmp_path / "a")], check=True, capture_output=True).stdout
    except FileNotFoundError:
        pytest.skip("the program lz4 is not installed")
    assert unpacked(packed + packed, "a.lz4") == (TEXT * 2, [])
