"""Tar archives: damage costs only what it hits and is reported; members are selected by name."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.unit.data.seeds import SEEDS

from foundray.contract import Unreadable, Values, load_modality
from foundray.data.files.files import find_files
from foundray.data.formats.tar import members
from foundray.data.prepare.sources import BadRow, Document, read_documents, read_located_rows
from foundray.spec import SourceConfig
from foundray.spec.formats import DOCUMENTS

BLOCK = 512
NAMES = [f"{n}.txt" for n in range(6)]
TEXTS = [f"text {n}" for n in range(6)]


def member(name: str, content: bytes, form: int = tarfile.USTAR_FORMAT, **fields: Any) -> bytes:
    """A tar member: headers, content and padding."""
    information = tarfile.TarInfo(name)
    information.size = len(content)
    for field, value in fields.items():
        setattr(information, field, value)
    return information.tobuf(form, "utf-8", "surrogateescape") + content + bytes(-len(content) % BLOCK)


def packed(contents: Iterable[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT, record: int = BLOCK) -> bytes:
    """An archive, padded to whole records."""
    found = b"".join(member(name, content, form) for name, content in contents) + bytes(2 * BLOCK)
    return found + bytes(-len(found) % record)


def numbered(*numbers: int, record: int = BLOCK) -> bytes:
    """An archive of small texts of two blocks each."""
    return packed([(f"{n}.txt", f"text {n}".encode()) for n in numbers], record=record)


OK = numbered(*range(6))


def read(archive: bytes, tmp_path: Path, name: str = "a.tar", **fields: Any) -> tuple[list[str], list[BadRow]]:
    """(texts, bad rows) of an archive as a source."""
    (path := tmp_path / name).write_bytes(archive)
    source = SourceConfig(path=str(path), format="webdataset", **fields)
    rows = [row for file in find_files(source) for row in read_documents(file, source)]
    return [row.text for row in rows if isinstance(row, Document)], [row for row in rows if isinstance(row, BadRow)]


def names_of(archive: bytes) -> list[str]:
    stream: Any = io.BufferedReader(io.BytesIO(archive))  # type: ignore[arg-type]
    return [name for name, content in members(stream) if isinstance(content, bytes)]


def changed(archive: bytes, place: int, by: bytes) -> bytes:
    return archive[:place] + by + archive[place + len(by) :]


def without(*numbers: int) -> list[str]:
    return [text for n, text in enumerate(TEXTS) if n not in numbers]


# Damage


@pytest.mark.parametrize("place", [0, 100, 124, 130, 148, 156, 257, 345])
@pytest.mark.parametrize("number", [0, 3, 5])
def test_a_damaged_header_costs_its_member(number: int, place: int, tmp_path: Path) -> None:
    place += number * 2 * BLOCK
    texts, (bad,) = read(changed(OK, place, bytes([OK[place] ^ 4])), tmp_path)
    assert texts == without(number)
    assert (bad.lost, bad.unit, bad.position) == (1, "member", f"byte {number * 2 * BLOCK}")
    assert "damaged" in bad.reason
    assert number == 0 or f"after {number - 1}.txt" in bad.reason


def test_zeroed_blocks(tmp_path: Path) -> None:
    for start, size, lost in ((4, 2, [2]), (4, 1, [2]), (4, 4, [2, 3]), (0, 2, [0]), (4, 3, [2, 3])):
        texts, (bad,) = read(changed(OK, start * BLOCK, bytes(size * BLOCK)), tmp_path)
        assert texts == without(*lost)
        assert (bad.lost, bad.unit, bad.position) == (2 if size == 4 else 1, "member", f"byte {start * BLOCK}")
    # In a padded archive, as most are, two blocks of zeros are no end.
    names = [("one.txt", b"1"), ("two.txt", b"2"), ("three.txt", b"3")]
    texts, (bad,) = read(changed(packed(names, record=20 * BLOCK), 2 * BLOCK, bytes(2 * BLOCK)), tmp_path)
    assert (texts, bad.lost) == (["1", "3"], 1)
    assert bad.reason == "1,024 zero bytes stand between one.txt and three.txt: at least one member is missing"
    # Otherwise it is ambiguous, and reported.
    texts, (bad,) = read(changed(packed(names), 2 * BLOCK, bytes(2 * BLOCK)), tmp_path)
    assert (texts, bad.lost) == (["1", "3"], 0)
    assert "bytes 1,024 to 2,048 are zero, between one.txt and three.txt: they are read as the end of an archive" in bad.reason


def written(names: Iterable[str], size: int) -> bytes:
    """An archive as tarfile writes it, of members of `size` bytes."""
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in names:
            information = tarfile.TarInfo(name)
            information.size = size
            archive.addfile(information, io.BytesIO((name.encode() * size)[:size]))
    return file.getvalue()


FRUIT = [f"{name}.txt" for name in ("apple", "pear", "fig", "plum", "kiwi", "lime", "date", "nut", "lemon", "melon", "bean")]


@pytest.mark.parametrize(
    ("archive", "start", "size", "documents", "lost"),
    [
        (written([f"{n}.txt" for n in range(14)], 512), 9216, 1024, 13, 1),  # up to where a record ends
        (written([f"{n}.txt" for n in range(14)], 1024), 9216, 1024, 13, 1),
        (written([f"{n}.txt" for n in range(10)], 19 * BLOCK), 3 * 10240, 10240, 9, 1),  # a whole record
        (written(FRUIT, 500), 3072, 1024, 10, 1),
        (written(FRUIT, 19 * BLOCK), 3 * 10240, 10240, 10, 0),  # as if two archives were joined
        (packed((name, b"x" * 500) for name in FRUIT), 4096, 4096, 7, 1),
        (packed((f"{n}.txt", b"x" * 500) for n in range(31)), 4096, 4096, 27, 4),
        (packed((f"{n}.txt", b"x" * 500) for n in range(31)), 30 * 1024, 1024, 30, 0),  # the last, in a file of 32,768 bytes
        (packed((f"{n}.txt", b"x" * 500) for n in range(12)), 11 * 1024, 1024, 11, 0),
        (written(["a.txt", "b.txt"], 20_000), 20_992, 20_992, 1, 0),  # more zeros than a record needs
        (b"".join(member(name, b"x" * 19 * BLOCK) for name in FRUIT) + bytes(1024), 3 * 10240, 10240, 10, 1),
    ],
)  # fmt: skip
def test_zeroed_members_are_never_skipped_silently(
    archive: bytes, start: int, size: int, documents: int, lost: int, tmp_path: Path
) -> None:
    healthy, nothing = read(archive, tmp_path)
    assert nothing == []
    texts, (bad,) = read(changed(archive, start, bytes(size)), tmp_path)
    assert len(texts) == documents < len(healthy)
    assert (bad.lost, bad.unit) == (lost, "member")
    assert "zero" in bad.reason or "damaged" in bad.reason


def test_archives_that_were_joined_lose_nothing(tmp_path: Path) -> None:
    for one, two in (
        (written(FRUIT[:3], 700), written(FRUIT[3:], 700)),
        (packed([("a.txt", b"a")]), packed([("b.txt", b"b")])),
    ):
        texts, bad = read(one + two, tmp_path)
        assert len(texts) == len(read(one, tmp_path)[0]) + len(read(two, tmp_path)[0])
        assert [row.lost for row in bad] == [0]


@pytest.mark.parametrize(
    ("end", "position", "reason"),
    [
        (6 * BLOCK, "end", "the archive is broken: it has no end mark: it may be cut off after 2.txt"),
        (6 * BLOCK + 100, "end", "the archive is broken: it is cut off in a header (after 2.txt): 100 bytes of it are there"),
        (5 * BLOCK + 2, "2.txt", "the archive is broken: it is cut off in this member: 2 of its 6 bytes are there"),
        (5 * BLOCK + 7, "end", "the archive is broken: it has no end mark: it may be cut off after 2.txt"),
    ],
)
def test_a_cut(end: int, position: str, reason: str, tmp_path: Path) -> None:
    texts, bad = read(OK[:end], tmp_path)
    assert texts == TEXTS[: 2 if position == "2.txt" else 3]
    assert bad == [BadRow(position, reason, 1, "member")]


def test_several_archives_in_one_file(tmp_path: Path) -> None:
    for record in (BLOCK, 20 * BLOCK, 64 * BLOCK):
        one, two = numbered(0, 1, 2, record=record), numbered(3, 4, 5, record=record)
        for archives, right in ((one + two, TEXTS), (one + one, TEXTS[:3] * 2)):
            texts, notes = read(archives, tmp_path)
            # Few writers fill records of 64 blocks: an archive that ends in as many zeros may have lost its last members.
            assert (texts, [note.lost for note in notes]) == (right, [0] if record == 64 * BLOCK else [])
        for size in (700, BLOCK, 5):
            texts, (bad, *_) = read(one + b"x" * size + two, tmp_path)
            assert (texts, bad.lost, bad.unit) == (TEXTS, 1, "member")
            assert f"{size:,} bytes from byte {len(one):,} on (after 2.txt) are damaged" in bad.reason
    texts, (bad,) = read(OK + b"x" * 5000, tmp_path)
    assert (texts, bad.lost) == (TEXTS, 1)
    assert "its last 5,000 bytes (after 5.txt) are damaged" in bad.reason


def test_bytes_that_are_missing_or_too_many(tmp_path: Path) -> None:
    long = [(name, text.encode() * 300) for name, text in zip(NAMES, TEXTS, strict=True)]
    archive, size = packed(long), 5 * BLOCK  # of each member
    for number in range(5):
        content = number * size + BLOCK + 300
        for other, said in (
            (archive[:content] + archive[content + 100 :], "bytes are missing in it"),
            (archive[:content] + b"x" * 100 + archive[content:], "it holds extra bytes"),
        ):
            texts, (bad,) = read(other, tmp_path)
            assert texts == [text * 300 for text in without(number)]
            assert (bad.position, bad.lost) == (NAMES[number], 1)
            assert said in bad.reason


def test_archives_in_an_archive_are_not_looked_into(tmp_path: Path) -> None:
    inner = numbered(7, 8, 9)
    archive = packed([("0.txt", b"text 0"), ("inner.tar", inner), ("1.txt", b"text 1")])
    texts, (bad,) = read(archive, tmp_path)
    assert (texts, bad) == (TEXTS[:2], BadRow("end", "left out: 1 member of other kinds (.tar)", 0, "member"))
    # Nor if its own header or the one after it is damaged.
    texts, bad_ones = read(changed(archive, 2 * BLOCK + 30, b"?"), tmp_path)
    assert (texts, [bad.lost for bad in bad_ones]) == (TEXTS[:2], [1])
    texts, bad_ones = read(changed(archive, 3 * BLOCK + len(inner), b"?"), tmp_path)
    assert (texts, [bad.lost for bad in bad_ones]) == (TEXTS[:1], [1, 0])


def test_a_damaged_extended_header(tmp_path: Path) -> None:
    """GNU.sparse.size=x, and an extended header with a wrong checksum, so that the member's name is unknown."""
    bad_size = member("0", b"21 GNU.sparse.size=x\n", type=tarfile.XHDTYPE)
    archive = member("0.txt", b"text 0") + bad_size + member("1.txt", b"text 1") + numbered(2)
    texts, (bad,) = read(archive, tmp_path)
    assert (texts, bad.position, bad.lost) == (["text 0", "text 2"], "1.txt", 1)
    assert "its extended header cannot be read" in bad.reason
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        names = ["a/" * 60 + name for name in NAMES]
        archive = packed(zip(names, [text.encode() for text in TEXTS], strict=True), form)
        assert read(archive, tmp_path) == (TEXTS, [])
        texts, (bad,) = read(changed(archive, 140, b"\xff"), tmp_path)
        assert (texts, bad.lost) == (without(0), 1)
        assert "which holds its name" in bad.reason


def test_a_header_that_lies_about_a_size_costs_one_member_and_no_memory(tmp_path: Path) -> None:
    lying = tarfile.TarInfo("big.txt")
    lying.size = 2**60
    archive = numbered(0)[: 2 * BLOCK] + lying.tobuf(tarfile.GNU_FORMAT) + numbered(1, 2, 3)
    tracemalloc.start()
    texts, (bad,) = read(archive, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert texts == TEXTS[:4]
    assert (bad.position, bad.lost) == ("big.txt", 1)
    assert "1,152,921,504,606,846,976 bytes" in bad.reason
    assert peak < 2**24


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, bz2.compress])
def test_files_that_are_no_archive(pack: Any, tmp_path: Path) -> None:
    name = {bytes: "a.tar", gzip.compress: "a.tgz", lzma.compress: "a.tar.xz", bz2.compress: "A.TBZ2"}[pack]
    for content, expected in (
        (b"hello" * 1000, BadRow("byte 0", "it is not a tar archive", 1, "file")),
        (b"%PDF" + b"x" * 3000, BadRow("byte 0", "it is not a tar archive: it looks like a PDF document", 1, "file")),
        (b"", BadRow("byte 0", "empty", 0, "file")),
        (bytes(10240), BadRow("byte 0", "empty", 0, "file")),
        (bytes(99999), BadRow("byte 0", "it is not a tar archive: it holds 99,999 zero bytes", 1, "file")),
    ):  # fmt: skip
        assert read(pack(content), tmp_path, name) == ([], [expected])
    assert read(pack(OK), tmp_path, name) == (TEXTS, [])
    assert read(gzip.compress(OK), tmp_path, "misnamed.tar") == (TEXTS, [])


def test_a_compressed_archive_that_breaks(tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(40_000).hex().encode()
    archive = packed([(f"{n}.txt", b"%d %s" % (n, noise)) for n in range(6)])
    texts, (bad,) = read(gzip.compress(archive)[: -len(noise)], tmp_path, "a.tar.gz")
    assert [text[0] for text in texts] == ["0", "1", "2", "3"]
    assert bad.position == "4.txt"
    assert bad.reason.startswith("the archive is broken: it is cut off, at byte")
    # In concatenated compressed streams, reading continues after a damaged one.
    step = len(archive) // 3
    streams = [gzip.compress(archive[:step]), gzip.compress(archive[step : 2 * step]), gzip.compress(archive[2 * step :])]
    streams[1] = changed(streams[1], len(streams[1]) // 2, b"?" * 50)
    texts, bad_ones = read(b"".join(streams), tmp_path, "a.tar.gz")
    assert [text[0] for text in texts] == ["0", "1", "5"]
    assert any(bad.reason.startswith("the archive is broken: ") for bad in bad_ones)
    assert sum(bad.lost for bad in bad_ones) in (1, 2, 3)
    texts, (bad,) = read(gzip.compress(OK) + b"garbage", tmp_path, "a.tar.gz")
    assert (texts, bad.lost, bad.unit) == (TEXTS, 1, "part")


# Ordinary archives


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_ordinary_archives_are_read_as_tarfile_reads_them(form: int, tmp_path: Path) -> None:
    rng = random.Random(form)
    with tarfile.open(tmp_path / "a.tar", "w", format=form, pax_headers={"comment": "x"} if form == 2 else None) as archive:
        for n, size in enumerate((0, 1, 511, 512, 513, 70_000)):
            name = f"{'n' * 90}/{'m' * 50}/{n}" if n % 2 else f"./ü{n}"
            information = tarfile.TarInfo(name)
            information.size, information.mtime = size, 1.5 * n
            archive.addfile(information, io.BytesIO(rng.randbytes(size)))
        for kind, name in (
            (tarfile.DIRTYPE, "d/"),
            (tarfile.SYMTYPE, "link"),
            (tarfile.FIFOTYPE, "fifo"),
            (tarfile.LNKTYPE, "hard"),
        ):
            information = tarfile.TarInfo(name)
            information.type, information.linkname = kind, "x"
            archive.addfile(information)
    with tarfile.open(tmp_path / "a.tar") as archive:
        right = [(one.name, file.read()) for one in archive if one.isfile() and (file := archive.extractfile(one))]
    with (tmp_path / "a.tar").open("rb") as stream:
        found = list(members(stream))
    assert [(name, content) for name, content in found if isinstance(content, bytes)] == right
    others = {name: str(content) for name, content in found if isinstance(content, Unreadable)}
    assert others == dict.fromkeys(("link", "fifo", "hard"), "not a regular file")


def test_old_headers_and_large_numbers() -> None:
    old = bytearray(member("old.txt", b"old")[:BLOCK])
    old[257:265] = bytes(8)
    old[148:156] = b"%06o\0 " % (sum(old[:148]) + sum(old[156:]) + 8 * 32)
    base256 = bytearray(member("star.txt", b"12345")[:BLOCK])
    base256[124:136] = b"\x80" + (5).to_bytes(11, "big")
    base256[148:156] = b"%06o\0 " % (sum(base256[:148]) + sum(base256[156:]) + 8 * 32)
    archive = bytes(old) + b"old".ljust(BLOCK, b"\0") + bytes(base256) + b"12345".ljust(BLOCK, b"\0") + numbered(0)
    assert names_of(archive) == ["old.txt", "star.txt", "0.txt"]
    assert names_of(b"x" * BLOCK + archive) == ["old.txt", "star.txt", "0.txt"]


def test_a_sparse_member_is_its_content_with_its_holes() -> None:
    """As GNU tar writes version 1.0: a map of the data comes before it."""
    places = b"2\n1000\n4\n5000\n4\n".ljust(BLOCK, b"\0")
    fields = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n28 GNU.sparse.realsize=6000\n25 GNU.sparse.name=s.bin\n"
    archive = member("x", fields, type=tarfile.XHDTYPE) + member("GNUSparseFile.0/s.bin", places + b"datamore") + numbered(0)
    stream: Any = io.BufferedReader(io.BytesIO(archive))  # type: ignore[arg-type]
    found = dict(members(stream))
    assert found["s.bin"] == changed(changed(bytes(6000), 1000, b"data"), 5000, b"more")
    liar: Any = io.BufferedReader(io.BytesIO(archive.replace(b"\n5000\n", b"\n0500\n")))  # type: ignore[arg-type]
    assert "are inconsistent" in str(dict(members(liar))["s.bin"])


# Selection of members


def test_members_are_selected_by_name_as_files_are(tmp_path: Path) -> None:
    table = pa.table({"text": ["from parquet"]})
    pq.write_table(table, parquet := io.BytesIO())
    contents = {
        "a/1.TXT": b"text one", "2.txt.gz": gzip.compress(b"text two"), "3.jsonl": b'{"text": "a"}\n{"text": 3}\n{"text": "b"}',
        "4.json": b'{"text":\n "pretty"}', "4b.json": b'[{"text": "x"}, {"text": "y"}]', "5.csv": b"id,text\n1,from csv\n",
        "6.parquet": parquet.getvalue(), "7.fa": b">s\nACGT\n", "8.conllu": b"# text = a sentence\n", "9.txt": b"bad \xff",
        ".hidden.txt": b"no", "a/.git/x.txt": b"no", "._1.txt": b"\0\5\x16\7", "__MACOSX/a/._1.txt": b"no", "./dot.txt": b"dot",
        "1.png": b"\x89PNG", "1.cls": b"3", "2.CLS": b"4", "10.txt": b"", "11.py": b"x = 1",
    }  # fmt: skip
    texts, bad = read(packed(contents.items()), tmp_path)
    assert texts == [
        "text one", "text two", "a", "b", "pretty", "x", "y", "from csv", "from parquet", "ACGT", "a sentence", "dot", "x = 1",
    ]  # fmt: skip
    assert [(row.position, row.lost, row.unit) for row in bad] == [
        ("3.jsonl, line 2", 1, "row"), ("9.txt, byte 4", 1, "file"), ("10.txt", 0, "file"), ("end", 0, "member"),
    ]  # fmt: skip
    assert bad[-1].reason == "left out: 3 members of other kinds (.cls, .png)"


@pytest.mark.parametrize("form", DOCUMENTS)
def test_a_member_of_any_format_is_read_as_a_file_of_it_is(form: str, tmp_path: Path) -> None:
    seeds = [seed for seed in SEEDS if seed.source == {"format": form}] or [replace(SEEDS[0], name="a.py")]
    for seed in seeds:
        (path := tmp_path / seed.name).write_bytes(content := seed.make())
        source = SourceConfig(path=str(path))
        alone = [row.text for file in find_files(source) for row in read_documents(file, source) if isinstance(row, Document)]
        assert read(packed([(seed.name, content)]), tmp_path) == (alone, []) and alone


def test_text_members_are_documents_as_the_source_says(tmp_path: Path) -> None:
    archive = packed([("a.txt", b"one\ntwo\n"), ("b.txt.xz", lzma.compress(b"three"))])
    assert read(archive, tmp_path) == (["one\ntwo\n", "three"], [])
    assert read(archive, tmp_path, documents="line") == (["one", "two", "three"], [])


def test_a_member_that_breaks_its_reader_costs_itself(tmp_path: Path) -> None:
    contents = [
        ("1.parquet", b"PAR1 no"),
        ("2.txt.gz", gzip.compress(b"cut")[:-9]),
        ("3.csv", b"\xff\xfea"),
        ("4.txt", b"good"),
    ]
    texts, bad = read(packed(contents), tmp_path)
    assert texts == ["good"]
    assert [row.position.partition(",")[0] for row in bad] == ["1.parquet", "2.txt.gz", "3.csv"]


def test_values_follow_the_same_rule(tmp_path: Path) -> None:
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(file := io.BytesIO(), "png")
    picture = file.getvalue()
    contents = {
        "1.png": picture, "._2.png": picture, "__MACOSX/2.png": picture, "a/3.PNG": picture, "4.png.gz": gzip.compress(picture),
        "5.png.gz": gzip.compress(picture)[:-20], "1.cls": b"1", "1.json": json.dumps({"a": 1}).encode(), "6.png": b"broken",
    }  # fmt: skip
    (path := tmp_path / "a.tar").write_bytes(changed(packed(contents.items()), 0, b"?"))
    image: Any = load_modality("image", {"size": 8, "patch": 4})
    assert isinstance(image, Values)
    source = SourceConfig(path=str(path), format="webdataset")
    rows = [row for file in find_files(source, image.endings) for row in read_located_rows(file, source, image, 4)]
    assert [name for name, _, row in rows if not isinstance(row, BadRow)] == ["a/3.PNG", "4.png.gz"]
    bad = [row for _, _, row in rows if isinstance(row, BadRow)]
    assert [(row.position, row.lost) for row in bad] == [("byte 0", 1), ("5.png.gz", 1), ("6.png", 1), ("end", 0)]
    assert bad[-1].reason == "left out: 2 members of other kinds (.cls, .json)"


def test_names_that_only_seem_to_point_outside(tmp_path: Path) -> None:
    archive = packed([("a/../b.txt", b"in"), ("..c.txt", b"hidden"), ("a/../../d.txt", b"out")])
    texts, (bad,) = read(archive, tmp_path)
    assert (texts, bad.position, bad.reason) == (["in"], "a/../../d.txt", "its name points outside the archive")


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    archive = packed([("\udcff.txt", b"\xff"), ("b.txt", b"good")])
    texts, (bad,) = read(archive, tmp_path)
    assert (texts, bad.position) == (["good"], "\\xff.txt")


def test_any_byte_of_an_archive_may_change(tmp_path: Path) -> None:
    """No exception is raised, and only the member with the byte is lost."""
    rng = random.Random(0)
    for _ in range(150):
        place = rng.randrange(len(OK))
        texts, bad = read(changed(OK, place, bytes([OK[place] ^ 1 << rng.randrange(8)])), tmp_path)
        number = place // (2 * BLOCK)
        assert [text for text in texts if text in without(number)] == without(number), place
        assert len(texts) == 6 or sum(row.lost for row in bad) == 1, place
