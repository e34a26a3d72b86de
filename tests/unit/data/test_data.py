"""Sources, tokenizers and packing: nothing is lost, and bad rows are reported."""

import gzip
import io
import itertools
import json
import lzma
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from foundray import spec
from foundray.data.files.files import find_files
from foundray.data.prepare.pack import Packer, to_table
from foundray.data.prepare.sources import BadRow, Document, read_documents
from foundray.data.tokenizers import tokenizer as tokenizers
from foundray.data.tokenizers.file import load_file
from foundray.errors import InputError
from foundray.spec import SourceConfig


def read(path: Path, **fields: str) -> list[Document | BadRow]:
    source = SourceConfig(path=str(path), **fields)  # type: ignore[arg-type]
    return [row for file in find_files(source) for row in read_documents(file, source)]


def texts(rows: list[Document | BadRow]) -> list[str]:
    return [row.text for row in rows if isinstance(row, Document)]


def bad(rows: list[Document | BadRow]) -> list[tuple[str, str]]:
    return [(row.position, row.reason) for row in rows if isinstance(row, BadRow)]


def test_text_as_file_line_and_paragraph(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n\n\nthree\r\n")
    assert texts(read(path)) == ["one\ntwo\n\n\nthree\r\n"]
    assert texts(read(path, documents="line")) == ["one", "two", "three"]
    assert texts(read(path, documents="paragraph")) == ["one\ntwo", "three"]


@pytest.mark.parametrize("ending", ["", ".gz", ".zst", ".xz"])
def test_json_lines_with_bad_rows(ending: str, tmp_path: Path) -> None:
    rows = [b'{"text": "good"}', b"{broken", b'{"other": 1}', b'{"text": ""}', b'{"text": 3}', b"", b"\xff\xfe", b"[1]"]
    rows += [b'{"text": "\\ud800"}', b'{"text": "also good"}']
    content = b"\n".join(rows) + b"\n"
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress, ".xz": lzma.compress}[ending]
    (tmp_path / f"a.jsonl{ending}").write_bytes(pack(content))
    found = read(tmp_path, format="jsonl")
    assert texts(found) == ["good", "also good"]
    reasons = dict(bad(found))
    assert list(reasons) == [f"line {n}" for n in range(2, 10)]
    for line, said in (
        (2, "not JSON"),
        (3, "no field 'text'"),
        (4, "empty"),
        (5, "not text"),
        (6, "empty"),
        (7, "not UTF-8"),
    ):
        assert said in reasons[f"line {line}"]


def test_gzip_of_several_members_and_a_torn_one(tmp_path: Path) -> None:
    two = gzip.compress(b'{"text": "a"}\n') + gzip.compress(b'{"text": "b"}\n')
    (tmp_path / "a.jsonl.gz").write_bytes(two)
    assert texts(read(tmp_path / "a.jsonl.gz", format="jsonl")) == ["a", "b"]
    lines = b"".join(json.dumps({"text": os.urandom(50).hex()}).encode() + b"\n" for _ in range(50_000))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines)[:-100_000])
    found = read(tmp_path / "b.jsonl.gz", format="jsonl")
    assert len(texts(found)) > 0
    assert bad(found)


@pytest.mark.parametrize(
    ("torn", "reason_part"), [(slice(-90), "it is cut off"), (slice(50, None), "xz file, though its name says so")]
)
def test_a_torn_xz_file(torn: slice, reason_part: str, tmp_path: Path) -> None:
    content = lzma.compress(os.urandom(3000).hex().encode())
    (tmp_path / "a.txt.xz").write_bytes(content[torn])
    ((position, reason),) = bad(read(tmp_path / "a.txt.xz"))
    assert position == "byte 0"
    assert reason.startswith("the compressed stream is broken")
    assert reason_part in reason


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["a", None, " ", "b"]}), tmp_path / "x.parquet")
    found = read(tmp_path, format="parquet", field="body")
    assert texts(found) == ["a", "b"]
    assert [position for position, _ in bad(found)] == ["row 1", "row 2"]
    assert "no column 'text'" in bad(read(tmp_path, format="parquet"))[0][1]
    (tmp_path / "y.parquet").write_bytes(b"not parquet")
    assert "not readable" in bad(read(tmp_path / "y.parquet", format="parquet"))[0][1]


def test_a_binary_file_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc\xff\x00")
    assert bad(read(tmp_path / "x")) == [("byte 3", "not UTF-8 (byte 0xff)")]


def test_folders_and_globs(tmp_path: Path) -> None:
    for name in ("b.py", "a/c.py", "a/b/d.py", "a/e.txt", ".hidden/f.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")

    def names(path: str) -> list[str]:
        return [file.url.removeprefix(f"{tmp_path}/") for file in find_files(SourceConfig(path=path))]

    assert names(f"{tmp_path}/**/*.py") == ["a/b/d.py", "a/c.py", "b.py"]
    assert names(f"{tmp_path}/*.py") == ["b.py"]
    assert names(f"{tmp_path}/a/[ce].*") == ["a/c.py", "a/e.txt"]
    assert names(str(tmp_path)) == ["a/b/d.py", "a/c.py", "a/e.txt", "b.py"]
    assert names(f"file://{tmp_path}/*.py") == [f"file://{tmp_path}/b.py"]
    for missing, said in ((f"{tmp_path}/none", "does not exist"), (f"{tmp_path}/*.c", "no file matches")):
        with pytest.raises(InputError, match=said):
            find_files(SourceConfig(path=missing))


ODD = "Zoë\t→ 日本\r\n\x00 <|document|> 🙂 end"


def test_byte_and_bpe_tokenizers_are_lossless() -> None:
    for tokenizer in (tokenizers.make_bytes(), tokenizers.train_bpe(["hello hello world"] * 5, 280)):
        ids = tokenizer.encode([ODD])[0]
        assert tokenizer.document_id not in ids
        assert tokenizer.decode(ids) == ODD
        again = tokenizers.Tokenizer.from_json(tokenizer.to_json(), tokenizer.document_id)
        assert again.encode([ODD])[0].tolist() == ids.tolist()
    assert tokenizers.make_bytes().encode(["AZ"])[0].tolist() == [66, 91]
    assert tokenizers.make_bytes().vocabulary == 257


def test_char_tokenizer() -> None:
    tokenizer = tokenizers.make_char("ab\n")
    assert tokenizer.vocabulary == 5
    assert tokenizer.decode(tokenizer.encode(["ba\nab"])[0]) == "ba\nab"
    assert tokenizer.encode(["a?b"])[0].tolist() == [3, 1, 4]


def test_file_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizers.train_bpe(["some text"], 260).to_json())
    loaded = load_file(spec.TokenizerConfig(kind="file", path=str(path)))
    assert loaded.document_id == 0
    with pytest.raises(InputError, match="has no token '<none>'"):
        load_file(spec.TokenizerConfig(kind="file", path=str(path), document_token="<none>"))
    path.write_text("{}")
    with pytest.raises(InputError, match=r"is not a tokenizer\.json"):
        load_file(spec.TokenizerConfig(kind="file", path=str(path)))
    with pytest.raises(InputError, match="cannot be read"):
        load_file(spec.TokenizerConfig(kind="file", path=str(tmp_path / "none")))


@pytest.mark.parametrize("kind", ["bytes", "char", "bpe"])
def test_a_runs_own_tokenizer_loaded_from_a_file_is_the_same(kind: str, tmp_path: Path) -> None:
    texts = [ODD, "<|document|><|unknown|>", "hello hello world", ""]
    made = {
        "bytes": tokenizers.make_bytes,
        "char": lambda: tokenizers.make_char(set("".join(texts)) - {"日"}),
        "bpe": lambda: tokenizers.train_bpe(texts * 5, 290),
    }[kind]()
    (tmp_path / "tokenizer.json").write_text(made.to_json())
    loaded = load_file(spec.TokenizerConfig(kind="file", path=str(tmp_path / "tokenizer.json")))
    assert [ids.tolist() for ids in loaded.encode(texts)] == [ids.tolist() for ids in made.encode(texts)]
    assert (loaded.document_id, loaded.vocabulary, loaded.to_json()) == (made.document_id, made.vocabulary, made.to_json())
    assert made.document_id not in loaded.encode(["<|document|>"])[0]
    assert loaded.decode(loaded.encode(["hello"])[0]) == "hello"


@pytest.mark.parametrize("take_early", [False, True])
def test_packing_predicts_every_token_once(take_early: bool) -> None:
    documents = [np.arange(10, 10 + n, dtype=np.int32) for n in (1, 7, 30, 2, 100)]
    packer, samples = Packer(8, 0), []
    for ids in documents:
        packer.add(ids)
        if take_early and packer.ready:
            samples += packer.take(packer.ready)
    samples += packer.take(end=True)
    stream = np.concatenate([np.append([0], ids) for ids in documents])
    assert np.concatenate([sample[1:] for sample in samples]).tolist() == stream[1:].tolist()
    assert all(len(sample) == 9 for sample in samples[:-1])
    assert all(a[-1] == b[0] for a, b in itertools.pairwise(samples))
    table = to_table(samples)
    assert [row.tolist() for row in samples] == table.column("tokens").to_pylist()


def test_reading_does_not_hold_whole_files() -> None:
    """Lines come from a buffered stream, not from a list of all lines."""
    from foundray.data.formats.lines import numbered_lines as _lines

    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
            buffer[:] = (b"x" * 99 + b"\n") * (len(buffer) // 100) + b"\n" * (len(buffer) % 100)
            return len(buffer)

    lines = _lines(Endless(), "endless")  # type: ignore[arg-type]
    assert next(lines) == (1, b"x" * 99)
