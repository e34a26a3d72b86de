"""The files of a source, their formats, and the report on the files left out."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from foundray.data.files.files import Found, RawFile, find_files, grouped, look
from foundray.data.files.names import bare, compression, ending, format_of
from foundray.data.prepare.sources import BadRow, Document, read_documents
from foundray.errors import InputError
from foundray.inspection.describe import derived
from foundray.spec import SourceConfig, Spec
from foundray.spec.loading import parse_spec
from foundray.storage import Store
from foundray.testing.specs import small_spec
from foundray.vectors.kinds import source_of

IMAGES = (".png", "idx3-ubyte")


def found(path: Path | str, endings: tuple[str, ...] = (), **fields: Any) -> Found:
    return look(SourceConfig(path=str(path), **fields), endings)


def names(path: Path | str, **fields: Any) -> list[str]:
    """Last parts of the paths of the files found."""
    return [Store.at(file.url).name for file in find_files(SourceConfig(path=str(path), **fields))]


def line(path: Path | str, endings: tuple[str, ...] = (), **fields: Any) -> str:
    source = SourceConfig(path=str(path), **fields)
    return look(source, endings).line(source).removeprefix(f"{path}: ")


def texts(path: Path | str, **fields: Any) -> list[str]:
    source = SourceConfig(path=str(path), **fields)
    rows = [row for file in find_files(source) for row in read_documents(file, source)]
    return [row.text if isinstance(row, Document) else f"! {row.reason}" for row in rows]


def write(folder: Path, *names: str, content: str = "x") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


# Names


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.txt", "text"), ("README", "text"), ("a.md", "text"), ("notes.unheard-of", "text"), ("a.", "text"),
        ("A.JSONL", "jsonl"), ("a.json", "jsonl"), ("a.ndjson.GZ", "jsonl"), ("a.csv.bz2", "csv"), ("a.TSV", "csv"),
        ("a.parquet", "parquet"), ("a.fna.bgz", "fasta"), ("a.conllu.lz4", "conllu"), ("a.py", "code"), ("a.ts", "code"),
        ("a.tar", "webdataset"), ("a.TGZ", "webdataset"), ("a.tar.zst", "webdataset"), ("a.txz", "webdataset"),
        ("a.png", None), ("a.zip", None), ("a.pdf", None), ("a.npz", None), ("a.wav.gz", None), ("t-idx1-ubyte.gz", None),
        ("a.gz.gz", None), ("d/_SUCCESS", None), ("d/_metadata", None), ("a.safetensors", None), ("Thumbs.db", None),
    ],
)  # fmt: skip
def test_the_format_of_a_document_follows_from_its_name(name: str, form: str | None) -> None:
    assert format_of(name) == form


def test_the_format_of_values_follows_from_the_endings_of_their_modality() -> None:
    names = ["a.PNG", "t-idx3-ubyte.gz", "a.tar.xz", "a.tbz2", "a.txt", "a.zip"]
    assert [format_of(name, IMAGES) for name in names] == ["files", "files", "webdataset", "webdataset", None, None]


def test_compressions_and_endings() -> None:
    assert [compression(name) for name in ("a.GZ", "a.bz2", "a.lz4", "a.zst", "a.xz", "a.tgz", "a.txt")] == [
        "gzip", "bz2", "lz4", "zstd", "xz", "gzip", None,
    ]  # fmt: skip
    assert [bare(name) for name in ("D/A.TXT.Gz", "a.tbz", "a.b")] == ["d/a.txt", "a.tar", "a.b"]
    assert [ending(name) for name in ("A.CSV.GZ", "b", "c.d/e", "Mr. Smith goes to sea")] == [".csv.gz", "", "", ""]


# Formats by ending


def test_a_folder_of_several_formats_is_read_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("prose")
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "c.csv").write_text("n,text\n1,cell\n")
    (tmp_path / "d.JSONL.gz").write_bytes(gzip.compress(b'{"text": "packed"}\n'))
    (tmp_path / "e.txt.bz2").write_bytes(bz2.compress(b"packed prose"))
    pq.write_table(pa.table({"text": ["row"]}), tmp_path / "f.parquet")
    (tmp_path / "g.py").write_text("code")
    assert texts(tmp_path) == ["prose", "one", "two", "cell", "packed", "packed prose", "row", "code"]
    assert line(tmp_path) == "read by their endings, 3 text, 2 jsonl, 1 csv, 1 parquet"
    assert texts(tmp_path / "*.jsonl") == ["one", "two"], "JSON Lines are never read as prose"
    assert texts(tmp_path / "b.jsonl", format="text") == ['{"text": "one"}\n{"text": "two"}\n'], "unless the spec says so"


def test_what_is_left_out_is_one_line(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "1.png", "2.PNG", "b/3.png", "x.zip", ".hidden/y.txt", "lib.so")
    assert names(tmp_path) == ["a.txt"]
    assert line(tmp_path) == "left out: 3 .png, 1 .so, 1 .zip (of no format that is read); hidden: 1"
    assert line(tmp_path / "b/../a.txt") == line(tmp_path / "*.txt") == ""
    assert line(tmp_path / "*") == "left out: 2 .png, 1 .so, 1 .zip (of no format that is read)"
    assert names(tmp_path, format="text") == ["1.png", "2.PNG", "a.txt", "3.png", "lib.so", "x.zip"], (
        "a format that is set counts"
    )
    assert line(tmp_path, IMAGES) == "left out: 1 .so, 1 .txt, 1 .zip (of no format that is read); hidden: 1"
    assert [file.format for file in found(tmp_path, IMAGES).files] == ["files"] * 3
    write(tmp_path, "d.csv", "e.csv.gz")
    assert line(tmp_path, format="csv") == ("left out: 3 .png, 1 .so, 1 .txt, 1 .zip (not csv by the ending); hidden: 1")
    write(tmp_path, *(f"{n}.q{n}a" for n in range(9)), ".png")
    shown = line(tmp_path, format="csv")
    assert "3 .png, 1 .q0a, 1 .q1a, 1 .q2a, 1 .q3a, 1 .q4a, 7 of 7 other kinds (not csv by the ending); hidden: 2" in shown


def test_an_empty_source_says_what_there_is(tmp_path: Path) -> None:
    def said(path: Path | str, endings: tuple[str, ...] = (), **fields: Any) -> str:
        with pytest.raises(InputError) as refused:
            found(path, endings, **fields)
        return str(refused.value).removeprefix(f"the source {path} is empty: ")

    assert said(tmp_path) == "it holds no file"
    write(tmp_path, "a.csv", "b/c.csv", "README", ".x")
    assert said(tmp_path, format="jsonl") == "it holds no jsonl file; there are: 2 .csv, 1 without an ending; hidden: 1"
    assert said(tmp_path / "*.txt") == "no file matches '*.txt'; there are: 1 .csv, 1 without an ending"
    assert said(tmp_path / "**/*.CSV") == "no file matches '**/*.CSV'; there are: 2 .csv, 1 without an ending"
    assert said(tmp_path, IMAGES).startswith("it holds no file that ends in .png, idx3-ubyte; there are: 2 .csv")
    (tmp_path / "b/c.csv").rename(tmp_path / "b/c.zip")
    assert said(tmp_path / "b").startswith("it holds no file of a format that is read; there are: 1 .zip")
    for path, right in ((tmp_path / "b/c.zip", "by the ending .zip; set its format: text"),):
        with pytest.raises(InputError, match=right):
            found(path)
    with pytest.raises(InputError, match=r"by the ending \.csv; set its format: files, if it is one of \.png"):
        found(tmp_path / "a.csv", IMAGES)
    with pytest.raises(InputError, match="is neither a file nor a folder"):
        found("/dev/null")


def test_copies_and_checksums_beside_data_are_left_out(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.jsonl.bak", "b.parquet.crc", "notes.txt~"):
        (tmp_path / name).write_text('{"text": "so"}')
    found = look(SourceConfig(path=str(tmp_path)))
    assert [file.url for file in found.files] == [str(tmp_path / "a.jsonl")]
    assert "left out: 1 .bak, 1 .crc, 1 without an ending" in found.line(SourceConfig(path=str(tmp_path)))


def test_a_glob_whose_files_are_of_no_format_says_what_would_be_right(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_text("so")
    with pytest.raises(InputError, match=r"what '\*.bin' matches is of no format .* \(1 .bin\); set its format: text"):
        look(SourceConfig(path=f"{tmp_path}/*.bin"))


def test_a_format_that_is_not_the_files_says_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\nx\ny\n")
    rows = texts(tmp_path / "a.csv", format="jsonl")
    assert rows[0].endswith("(by its name the file is csv, and it is read as jsonl)")
    assert len([row for row in rows if "by its name" in row]) == 1
    (tmp_path / "b.txt").write_text("no JSON")
    assert "by its name" not in texts(tmp_path / "b.txt", format="jsonl")[0], "anything may be called .txt"


def test_formats_go_with_modalities_and_fingerprints_stay(tmp_path: Path) -> None:
    def spec(*sources: dict[str, Any], **changes: Any) -> Spec:
        return parse_spec(yaml.safe_dump(small_spec(tmp_path, tmp_path, data__sources=list(sources), **changes)), "x")

    plain, said = spec({"path": "x"}), spec({"path": "x", "format": "text"})
    assert plain.data.sources[0].format == "auto"
    assert plain.identity() == said.identity(), "what a spec meant before formats followed from names"
    assert plain.fingerprint() == said.fingerprint() != spec({"path": "x", "format": "jsonl"}).fingerprint()
    image: Any = {"data__modality": {"kind": "image", "size": 16, "patch": 4}, "objective": {"kind": "masked_pixel"}}
    image["model__context"] = 16
    assert spec({"path": "x"}, **image).fingerprint() == spec({"path": "x", "format": "files"}, **image).fingerprint()
    with pytest.raises(InputError, match="read from files, or webdataset, not from text; omit it, and the file names decide"):
        spec({"path": "x", "format": "text"}, **image)


def test_the_line_is_part_of_a_dry_run_and_embed_knows_several_formats(tmp_path: Path) -> None:
    write(tmp_path / "raw", "a.txt", "b.zip", content="some text " * 50)
    spec = parse_spec(yaml.safe_dump(small_spec(tmp_path / "raw", tmp_path)), "x")
    assert derived(spec)["data.sources.0"] == f"{tmp_path}/raw: left out: 1 .zip (of no format that is read)"
    assert source_of(str(tmp_path / "raw/a.txt"), spec, {}).format == "text"
    assert source_of(str(tmp_path / "raw"), spec, {}).format == "auto"
    with pytest.raises(InputError, match=r"b\.zip has an unknown format; if it is text, give --set format=text"):
        source_of(str(tmp_path / "raw/b.zip"), spec, {})


# Links and special files


def test_a_loop_of_links_is_read_once(tmp_path: Path) -> None:
    write(tmp_path, "sub/x.txt", "z/y.txt")
    (tmp_path / "sub/up").symlink_to("..")
    (tmp_path / "a").symlink_to("z")  # sorts before z, but the folder itself is read first
    assert names(tmp_path) == ["x.txt", "y.txt"]
    assert line(tmp_path) == "left out: links to folders that are read anyway: 2 (a, up)"
    assert names(tmp_path / "a") == ["y.txt"], "a link that is named is followed"
    assert names(tmp_path / "**/*.txt") == ["x.txt", "y.txt"]


def test_links_out_of_the_folder_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/e.txt", "in/own.txt")
    for name in ("one", "two"):
        (tmp_path / "in" / name).symlink_to("../elsewhere")
    (tmp_path / "elsewhere/back").symlink_to("../in")
    (tmp_path / "in/again.txt").symlink_to("own.txt")
    assert [file.url.removeprefix(f"{tmp_path}/in/") for file in found(tmp_path / "in").files] == [
        "again.txt", "one/e.txt", "own.txt",
    ]  # fmt: skip
    assert "links to folders that are read anyway: 2 (back, two)" in line(tmp_path / "in")


def test_special_files_are_left_out_and_never_opened(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "x.jsonl/inside.txt")
    os.mkfifo(tmp_path / "fifo.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "gone.txt").symlink_to("nowhere")
    (tmp_path / "self.txt").symlink_to("self.txt")
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        try:
            os.chdir(tmp_path)  # the path of a socket is short
            listening.bind("sock.txt")
        finally:
            os.chdir(here)
        assert names(tmp_path) == ["a.txt", "inside.txt"]
        said = line(tmp_path)
    assert "pipes, sockets or devices: 3 (fifo.txt, sock.txt, zero.txt)" in said
    assert "broken links: 2 (gone.txt, self.txt)" in said
    for name in ("fifo.txt", "zero.txt"):
        with pytest.raises(InputError, match="is neither a file nor a folder"):
            found(tmp_path / name)
    with pytest.raises(InputError, match="does not exist"):
        found(tmp_path / "gone.txt")


def test_names_that_are_not_utf8_are_left_out_by_name(tmp_path: Path) -> None:
    write(tmp_path, "ok.txt", "ünï.txt")
    for name in (b"caf\xe9.txt", b"dir\xff/x.txt"):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    assert names(tmp_path) == ["ok.txt", "ünï.txt"]
    assert line(tmp_path) == r"left out: names that are not UTF-8: 2 ('caf\xe9.txt', 'dir\xff')"
    assert line(f"file://{tmp_path}") == line(tmp_path)
    with pytest.raises(InputError, match=r"caf\\udce9\.txt' is not UTF-8"):
        Store.at(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))


def test_a_folder_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    here = Path.cwd()
    try:
        os.chdir(tmp_path)
        for _ in range(20):  # deeper than the longest path
            Path("d" * 250).mkdir()
            os.chdir("d" * 250)
    finally:
        os.chdir(here)
    with pytest.raises(InputError, match=r"/ddd.* cannot be read \(File name too long\): make it readable, or name files by a"):
        found(tmp_path)
    write(tmp_path, "a.txt")
    assert names(tmp_path / "*.txt") == ["a.txt"], "a glob looks no deeper than it asks"


# Globs and names


def test_globs(tmp_path: Path) -> None:
    write(tmp_path, "i1.txt", "i2.txt", "i[1].txt", "x.jsonl", "sub/i1.txt", "a]b", "a-b", ".h/i1.txt", "line\nbreak.txt")

    def matched(pattern: str) -> list[str]:
        return [file.url.removeprefix(f"{tmp_path}/") for file in found(tmp_path / pattern).files]

    assert matched("i[1].txt") == ["i[1].txt"], "what exists by the very name is meant"
    assert matched("i[12].txt") == ["i1.txt", "i2.txt"]
    assert matched("i[[]*") == ["i[1].txt"]
    assert matched("i[!1[].txt") == ["i2.txt"]
    assert matched("i[1-9].txt") == matched("i?.txt") == ["i1.txt", "i2.txt"]
    assert matched("a[]x]b") == ["a]b"]
    assert matched("a[!]]b") == ["a-b"]
    assert matched("{i1,x}.{txt,jsonl}") == ["i1.txt", "x.jsonl"]
    assert matched("i1{,.gz}.txt") == ["i1.txt"]
    assert matched("**/i1.txt") == ["i1.txt", "sub/i1.txt"]
    assert matched("*/i1.txt") == matched("s*/*") == ["sub/i1.txt"]
    assert matched("**.txt") == ["i1.txt", "i2.txt", "i[1].txt", "line\nbreak.txt", "sub/i1.txt"]
    assert matched("l*.txt") == ["line\nbreak.txt"]
    for nothing in ("i[].txt", "i[z-a].txt", "I1.TX?"):
        with pytest.raises(InputError, match="no file matches"):
            matched(nothing)
    write(tmp_path, "set[1]/a.txt", "set1/b.txt")
    assert matched("set[1]/*.txt") == ["set[1]/a.txt"]


ODD = [
    "plain.txt", "with space.txt", "hash#1.txt", "what?.txt", "per%41cent.txt", "100%.txt", "ünï.txt", "i[1].txt",
    "a+b&c=d.txt", "x@y:z.txt", "emoji🙂.txt", "{a,b}.txt", "new\nline.txt", "tab\t.txt", "back\\slash.txt", "-dash.txt",
    "trailing.txt ", "?x=y.txt", "*.txt", "q'\"`.txt", "~.txt", "http:x.txt", "a" * 251 + ".txt",
]  # fmt: skip


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_files_of_any_name_are_found_and_read(scheme: str, tmp_path: Path) -> None:
    for name in ODD:
        (tmp_path / name).write_text(f"in {name}")
    assert texts(f"{scheme}{tmp_path}") == [f"in {name}" for name in sorted(ODD)]
    assert names(f"{scheme}{tmp_path}/*.txt*") == sorted(ODD)
    assert all(
        texts(file.url) == [f"in {name}"] for file, name in zip(found(f"{scheme}{tmp_path}").files, sorted(ODD), strict=True)
    )


def test_urls_may_be_written_as_they_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "Ordner mit ü"
    for name in ODD:
        write(folder, name, content=f"in {name}")
    for name in ODD:
        if "%41" not in name:  # in a URL, that is an A
            assert texts(f"file://{folder}/{name}") == [f"in {name}"]
    assert texts(f"file://{tmp_path}/Ordner%20mit%20%C3%BC/per%2541cent.txt") == ["in per%41cent.txt"]
    assert names(f"file://{folder}/i%5B1%5D*") == ["i[1].txt"], "what is encoded is no wildcard"
    assert names(f"file://{folder}/%2A.txt") == ["*.txt"]


# Neighbours


def test_files_are_grouped_in_linear_time() -> None:
    files = [RawFile(f"/d/{number}", 1000, 0) for number in range(50_000)]
    start = time.process_time()
    (group,) = grouped(files, 10**9)
    assert len(group) == 50_000
    assert time.process_time() - start < 5, "a sum over the group for each file takes a minute"
    sizes = [[file.size for file in some] for some in grouped([RawFile("x", size, 0) for size in (3, 3, 9, 1, 4, 5)], 6)]
    assert sizes == [[3, 3], [9], [1, 4], [5]]
    assert [len(some) for some in grouped(files[:5], 10**9, 2)] == [2, 2, 1]


def test_rows_of_odd_files_keep_their_place(tmp_path: Path) -> None:
    """A bad row names the URL that opens its file again."""
    (tmp_path / "b ad#.jsonl").write_text(json.dumps({"other": 1}))
    source = SourceConfig(path=f"file://{tmp_path}")
    (file,) = find_files(source)
    (row,) = read_documents(file, source)
    assert isinstance(row, BadRow)
    assert Store.at(file.url).read_text() == '{"other": 1}'
