"""Compressed files: all members, padding, damage, cuts, and files of another kind."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard

from foundray.data.files.compression import Broken, decompressed, decompressing, kind_of
from foundray.data.files.files import find_files
from foundray.data.prepare.sources import BadRow, Document, read_documents
from foundray.spec import SourceConfig


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
    """(all readable content, the errors in between)."""
    stream, found, said = decompressed(pa.BufferReader(content), name), bytearray(), []
    while True:
        try:
            if not (part := stream.read1(1000)):
                return bytes(found), said
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
def test_garbage_after_the_content_is_reported_and_costs_nothing(ending: str) -> None:
    one, two = PACK[ending](TEXT), PACK[ending](b"the end")
    for content, right in ((one + b"garbage" * 3, TEXT), (one + b"garbage" * 3 + two, TEXT + b"the end")):
        found, (broken,) = unpacked(content, f"a{ending}")
        assert found == right
        assert broken.whole
        assert str(broken).startswith(f"21 bytes at byte {len(one):,}, after the end of its content, are not ")
        assert (broken.lost, broken.unit) == (1, "part")


@each_kind
def test_all_output_of_a_cut_stream_is_used(ending: str) -> None:
    content = PACK[ending](LONG)
    found, (broken,) = unpacked(content[: len(content) * 9 // 10], f"a{ending}")
    assert LONG.startswith(found)
    assert ending == ".bz2" or len(found) > len(LONG) // 2  # its blocks of 900 kB are all or nothing
    assert str(broken).startswith("it is cut off, at byte ")
    assert not broken.whole
    found, _ = unpacked(content[:-1], f"a{ending}")  # only the checksum is cut
    assert found == LONG


def damaged(content: bytes, ending: str) -> bytes:
    """Flip one bit; in LZ4 that of the first block's size, since pyarrow writes no checksum."""
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
    # A cut member runs into the next.
    cut = pack(TEXT)[:-1000]
    found, (broken,) = unpacked(cut + small, f"a{ending}")
    assert found.endswith(b"small\n")
    assert f"reading continues at byte {len(cut):,}" in str(broken)


def test_nothing_of_a_damaged_block_of_bzip2_is_used() -> None:
    """Its checksum is verified only after the whole scrambled block was output."""
    text = os.urandom(700_000).hex().encode()  # two blocks
    content = bytearray(bz2.compress(text))
    content[-1000] ^= 1
    found, (broken,) = unpacked(bytes(content), "a.bz2")
    assert text.startswith(found)
    assert len(found) > 400_000
    assert "the bz2 file" in str(broken)


@each_kind
def test_content_that_does_not_match_its_name_is_one_sentence(ending: str) -> None:
    found, (broken,) = unpacked(b"plain text\n" * 1000, f"a{ending}")
    assert found == b""
    kinds = ("a gzip", "a bz2", "an xz", "a zstd", "an lz4")
    assert str(broken) in (f"it is not {kind} file, though its name says so" for kind in kinds)
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


# Content that is known to be damaged is not used


def _lz4_checked(content: bytes) -> bytes:
    """A frame of stored blocks with a content checksum, which pyarrow does not write."""
    xxhash = pytest.importorskip("xxhash")
    head = bytes([0b01100100, 0b01000000])
    blocks = (content[place : place + 2**16] for place in range(0, len(content), 2**16))
    stored = b"".join((len(block) | 1 << 31).to_bytes(4, "little") + block for block in blocks)
    checks = xxhash.xxh32_intdigest(head) >> 8 & 255, xxhash.xxh32_intdigest(content).to_bytes(4, "little")
    return b"\x04\x22\x4d\x18" + head + bytes([checks[0]]) + stored + bytes(4) + checks[1]


CHECKED = {**PACK, ".lz4": _lz4_checked, ".xz": lambda content: lzma.compress(content, preset=0)}
RANDOM = random.Random(1)
NOISE = [b"%d %x" % (n, RANDOM.getrandbits(320)) for n in range(3000)]
"""Lines like those of a corpus: they compress to half their size."""


def flipped(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


@pytest.mark.parametrize("ending", [".gz", ".xz", ".zst", ".lz4"])
def test_no_wrong_line_comes_out_of_a_flipped_bit(ending: str, tmp_path: Path) -> None:
    one = CHECKED[ending](b"".join(line + b"\n" for line in NOISE))
    small = CHECKED[ending](b"the end\n")
    content, right, rng = one + small, {"the end"} | {line.decode() for line in NOISE}, random.Random(ending)
    source = SourceConfig(path=str(path := tmp_path / f"a.txt{ending}"), documents="line")
    for place in [9000, len(one) - 6, len(one) - 1, *(rng.randrange(len(one)) for _ in range(20))]:
        path.write_bytes(flipped(content, place, rng.randrange(8)))
        rows = list(read_documents(find_files(source)[0], source))
        texts = [row.text for row in rows if isinstance(row, Document)]
        assert set(texts) <= right, place
        assert len(texts) == 3001 or sum(row.lost for row in rows if isinstance(row, BadRow)) >= 1, place


@pytest.mark.parametrize("ending", [".gz", ".xz", ".zst", ".lz4"])
def test_nothing_of_a_member_with_a_wrong_checksum_is_used(ending: str) -> None:
    for text in (
        TEXT,
        b"".join(b"%d\n" % n for n in range(650_000)),
    ):  # one that is kept while it is verified, and a longer one
        one = CHECKED[ending](text)
        place = {".gz": len(one) - 6, ".xz": len(one) - 30, ".zst": len(one) - 2, ".lz4": len(one) // 2}[ending]
        found, (broken,) = unpacked(flipped(one, place, 0) + CHECKED[ending](b"the end"), f"a{ending}")
        assert found == b"the end"
        said = f"its content does not match its checksum, so none of its {len(text):,} bytes of content that came out is used"
        assert str(broken).startswith(said)
        assert broken.lost == 1


def test_the_start_of_a_long_damaged_member_is_used() -> None:
    text = b"".join(b"%d %x\n" % (n, RANDOM.getrandbits(64)) for n in range(180_000))
    for ending, late in ((".gz", 2**20), (".xz", 2**21), (".zst", 2**20)):
        one = CHECKED[ending](text)
        place = len(one) * 3 // 4
        found, (broken,) = unpacked(one[:place] + RANDOM.randbytes(len(one) // 5) + one[place + len(one) // 5 :], f"a{ending}")
        assert text.startswith(found)
        assert len(found) > len(text) // 5
        assert f"the last {late:,} bytes of content before it are not used" in str(broken)
        found, (broken,) = unpacked(one[:place], f"a{ending}")  # a cut member is correct up to the cut
        assert text.startswith(found)
        assert len(found) > len(text) * 0.7
        assert str(broken).startswith("it is cut off, at byte")


def test_blocks_of_xz_have_a_checksum_each(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(LONG)
    try:
        packed = subprocess.run(
            ["xz", "-0", "-c", "--block-size=100000", str(tmp_path / "a")], check=True, capture_output=True
        ).stdout
    except FileNotFoundError:
        pytest.skip("the program xz is not installed")
    assert unpacked(packed, "a.xz") == (LONG, [])
    with_wrong_index, (broken,) = unpacked(flipped(packed, len(packed) - 20, 3), "a.xz")
    assert with_wrong_index == LONG  # each block is intact
    assert broken.lost == 1


def test_a_stream_that_cannot_be_read_twice_says_that_what_was_used_may_be_wrong() -> None:
    class Once(io.BytesIO):
        def seekable(self) -> bool:
            return False

    text = b"".join(b"%d\n" % n for n in range(400_000))
    stream, found = decompressing(Once(flipped(gzip.compress(text), 1000, 0)[:-6] + bytes(6)), "gzip"), 0
    with pytest.raises(Broken) as raised:
        while part := stream.read1(2**16):
            found += len(part)
    assert "bytes of content before it are not used" in str(raised.value)
    assert not found or f"the {found:,} bytes of its content that were used before may be wrong, too" in str(raised.value)
