"""Documents in Parquet: damage costs only what it hits, by page and row group."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foundray.contract import Unreadable
from foundray.contract.parquet_rows import ParquetRows
from foundray.data.files.files import find_files
from foundray.data.formats.row import empty
from foundray.data.prepare.sources import BadRow, Document, read_documents
from foundray.spec import SourceConfig


def written(table: pa.Table, **options: Any) -> bytes:
    pq.write_table(table, file := io.BytesIO(), **options)
    return file.getvalue()


def read(path: Path, content: bytes, field: str = "text") -> tuple[list[str], list[BadRow]]:
    """(texts, bad rows)."""
    path.write_bytes(content)
    source = SourceConfig(path=str(path), format="parquet", field=field)
    found = [row for file in find_files(source) for row in read_documents(file, source)]
    return [row.text for row in found if isinstance(row, Document)], [row for row in found if isinstance(row, BadRow)]


def test_a_value_that_is_not_utf8_costs_its_row(tmp_path: Path) -> None:
    values = [f"row {n}".encode() for n in range(3000)]
    values[1500] = b"caf\xe9"
    table = pa.table({"text": pa.array(values).view(pa.string()), "other": pa.array(values[::-1]).view(pa.string())})
    texts, bad = read(tmp_path / "a.parquet", written(table))
    assert (len(texts), texts[1500]) == (2999, "row 1501")
    assert [(row.position, row.reason, row.lost) for row in bad] == [("row 1500", "'text' is not UTF-8 (byte 0xe9)", 1)]


def test_a_flipped_bit_is_found_by_its_pages_checksum(tmp_path: Path) -> None:
    content = written(pa.table({"text": [f"document {n}" for n in range(60)]}), compression="none", write_page_checksum=True)
    at = content.index(b"document 30")
    flipped = content[:at] + b"dobument 30" + content[at + 11 :]
    assert pq.read_table(io.BytesIO(flipped))["text"][30].as_py() == "dobument 30", "nothing else would show it"
    texts, (bad,) = read(tmp_path / "a.parquet", flipped)
    assert (texts, bad.position, bad.lost, bad.unit) == ([], "row 0", 60, "row")
    assert "row group 0 cannot be read from row 0 on (60 of 60 rows): " in bad.reason
    assert "CRC" in bad.reason


@pytest.mark.parametrize("checksum", [True, False])
def test_a_damaged_page_costs_its_row_group_from_there_on(checksum: bool, tmp_path: Path) -> None:
    table = pa.table({"text": [f"row {n}: {n * n}" for n in range(12_000)]})
    options = {"row_group_size": 3000, "use_dictionary": False, "write_page_checksum": checksum}
    content = bytearray(written(table, data_page_size=6000, write_batch_size=300, **options))
    chunk = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(2).column(0)
    at = chunk.data_page_offset + chunk.total_compressed_size // 2
    content[at : at + 200] = bytes(200)
    texts, (bad,) = read(tmp_path / "a.parquet", bytes(content))
    start = int(bad.position.removeprefix("row "))
    assert 6000 < start < 9000
    assert (bad.lost, bad.unit) == (9000 - start, "row")
    assert texts == [text for n, text in enumerate(table["text"].to_pylist()) if not start <= n < 9000]


def test_damage_to_another_column_costs_nothing(tmp_path: Path) -> None:
    table = pa.table({"text": [f"row {n}" for n in range(100)], "other": [f"other {n}" for n in range(100)]})
    content = bytearray(written(table, compression="none", use_dictionary=False, write_page_checksum=True))
    content[content.index(b"other 50")] = 0
    path = tmp_path / "a.parquet"
    assert [len(part) for part in read(path, bytes(content))] == [100, 0]
    assert read(path, bytes(content), "other")[1][0].lost == 100


def test_damaged_footers(tmp_path: Path) -> None:
    content = written(pa.table({"text": ["a", "b", "c"]}))
    path = tmp_path / "a.parquet"
    for damaged in (content[:-1], content[:-8] + bytes(8), b"not parquet", b"PAR1" * 2):
        texts, (bad,) = read(path, damaged)
        assert (texts, bad.position, bad.lost, bad.unit) == ([], "row 0", 1, "file")
        assert bad.reason.startswith("not readable as Parquet: ")
        assert "\n" not in bad.reason
    named = written(pa.table({"abcdef": [1], "text": ["a"]})).replace(b"abcdef", b"ab\xff\xfeef")
    assert read(path, named)[1][0].reason == "not readable as Parquet: its schema holds text that is not UTF-8"


def test_columns_that_are_not_there_or_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    assert read(path, written(pa.table({"id": [1], "body": ["a"]})))[1] == [
        BadRow("row 0", "no column 'text'; there are: id, body", 1, "file")
    ]
    assert read(path, written(pa.table({})))[1][0].reason == "no column 'text'; there are: none"
    twice = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    assert read(path, written(twice))[1][0].reason == "2 columns are named 'text', so it is not clear which to read"
    dotted = pa.table({"text.raw": ["wrong"], "text": ["right"]})
    assert read(path, written(dotted)) == (["right"], [])


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int8(), pa.string())], ids=str
)
def test_all_kinds_of_text(kind: pa.DataType, tmp_path: Path) -> None:
    values = ["one", None, "two", "  "] if kind != pa.binary() else [b"one", None, b"two", b"  "]
    texts, bad = read(tmp_path / "a.parquet", written(pa.table({"text": pa.array(values, kind)})))
    assert texts == ["one", "two"]
    assert [(row.position, row.reason, row.lost) for row in bad] == [("row 1", "'text' is missing", 1), ("row 3", "empty", 0)]


def test_values_that_are_not_text(tmp_path: Path) -> None:
    for values in ([["a"]], [{"a": "b"}], [1], [1.5]):
        assert read(tmp_path / "a.parquet", written(pa.table({"text": values})))[1] == [BadRow("row 0", "'text' is not text")]
    far = pa.table({"text": pa.array([2**60], pa.timestamp("ms"))})
    assert "'text' is not a value that can be read" in read(tmp_path / "a.parquet", written(far))[1][0].reason
    assert read(tmp_path / "a.parquet", written(pa.table({"text": pa.array([], pa.string())})))[1] == [empty("byte 0", "file")]


def test_compressed_as_a_whole(tmp_path: Path) -> None:
    content = gzip.compress(written(pa.table({"text": ["a", "b"]})))
    assert read(tmp_path / "a.parquet.gz", content)[0] == ["a", "b"]
    assert read(tmp_path / "a.parquet.gz", content[:-20])[1][0].unit == "file"


def test_rows_of_several_columns() -> None:
    table = pa.table({"a": [1, 2], "b": pa.array([b"x", b"\xff"]).view(pa.string()), "c": [[1.0], None]})
    found = list(ParquetRows(written(table)).rows(["c", "b"]))
    assert found[0] == (0, {"c": [1.0], "b": "x"})
    assert found[1][0] == 1
    assert str(found[1][1]) == "'b' is not UTF-8 (byte 0xff)"
    with pytest.raises(Unreadable, match="no column 'd'; there are: a, b, c"):
        list(ParquetRows(written(table)).rows(["d"]))
