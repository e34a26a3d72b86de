"""Documents in CSV: damage costs only the rows that it hits, and intact files read as the csv module reads them."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from foundray.contract import Unreadable, csv_rows
from foundray.contract.csv_rows import CsvRows
from foundray.data.files.files import find_files
from foundray.data.prepare.sources import BadRow, Document, read_documents
from foundray.spec import SourceConfig


def never(line: int) -> str:
    """The reason for a row whose quote opens in `line` and never closes."""
    return f"the quote that opens in line {line} never closes; the rows after that line are read"


def read(path: Path, field: str = "text") -> Iterator[Document | BadRow]:
    source = SourceConfig(path=str(path), format="csv", field=field)
    for file in find_files(source):
        yield from read_documents(file, source)


def texts(path: Path, content: bytes | str, field: str = "text") -> list[str]:
    """The texts of a file with this content; bad rows as `position: reason`."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [row.text if isinstance(row, Document) else f"{row.position}: {row.reason}" for row in read(path, field)]


def losses(path: Path) -> list[tuple[int, str]]:
    return [(row.lost, row.unit) for row in read(path) if isinstance(row, BadRow)]


@pytest.mark.parametrize(
    ("content", "right"),
    [
        ('1,first\n2,"he said hi\n3,third\n4,fourth\n5,fifth\n', ["first", f"line 3: {never(3)}",
                                                                 "third", "fourth", "fifth"]),
        # A later quote would close it, with text after it.
        ('1,"open\n2,b\n3,"c, c"\n4,"d\nd"\n', [f"line 2: {never(2)}", "b", "c, c", "d\nd"]),
        ('"1","open\n"2","b"\n"3","c"\n', [f"line 2: {never(2)}", "b", "c"]),
        ('1,"open\n2,b\n3,", c"\n4,d\n', [f"line 2: {never(2)}", "b", ", c", "d"]),
        # In the second line of a row, whose first quote is closed.
        ('"1\n1","open\n2,b\n3,c\n', [f"line 2: {never(3)}", "b", "c"]),
        # One after another.
        ('1,"a\n2,"b\n3,c\n', [f"line 2: {never(2)}", f"line 3: {never(3)}",
                                "c"]),
        ('1,a\n2,"open', ["a", "line 3: the quote that opens in line 3 never closes"]),
        # Cut off within prose: what follows is not rows.
        ('1,a\n2,"A true field\nof prose\nthat is cut', [
            "a", "line 3: the quote that opens in line 3 never closes; what follows is lost with it: 2 lines"]),
    ],
)  # fmt: skip
def test_a_quote_that_never_closes_costs_its_row(content: str, right: list[str], tmp_path: Path) -> None:
    assert texts(tmp_path / "a.csv", "id,text\n" + content) == right
    assert losses(tmp_path / "a.csv") == [(1, "row")] * sum(": " in text for text in right)


def test_a_quote_that_never_closes_in_one_column_and_over_very_many_lines(tmp_path: Path) -> None:
    assert texts(tmp_path / "a.csv", 'text\na\n"b\nc\nd\n') == ["a", f"line 3: {never(3)}", "c", "d"]
    assert texts(tmp_path / "a.csv", 'text\na\n"b\nc\n"d" e\nf\n') == ["a", f"line 3: {never(3)}", "c", "d e", "f"]
    rows = "".join(f"{n},row {n}\n" for n in range(csv_rows.SUSPECT + 10))
    found = texts(tmp_path / "a.csv", f'id,text\n1,a\n2,"open\n{rows}3,its end"\n')
    assert (found[:3], found[-1], len(found)) == (["a", f"line 3: {never(3)}", "row 0"], 'its end"', csv_rows.SUSPECT + 13)


@pytest.mark.parametrize(
    "rows",
    [
        '1,"one, and\nmore"\n2,"say ""hi"""\n3,\'x\'\n',
        '1,"a table:\n2,b\n3,c\n4,d"\n5,e\n',  # few lines that look like rows
        '1,"he said "hi" to me"\n2,b\n',  # not strictly valid, but closed
        '1,"he said\nthat "one" thing"\n2,"b"\n',
        '1,"' + "A line of prose\n" * 3000 + '"\n2,b\n',
        '1,"' + "a line, with a comma\r\n" * 10 + '"\r\n2,b\r\n',
        "1,\ttab\n2,5\" disk\n",
        '1,"a\rb"\n2,"c\r\nd"\n',
    ],
)  # fmt: skip
def test_healthy_fields_read_as_by_csv_itself(rows: str, tmp_path: Path) -> None:
    by_csv = list(csv.reader(io.StringIO("id,text\n" + rows, newline="")))
    assert texts(tmp_path / "a.csv", "id,text\n" + rows) == [row[1] for row in by_csv[1:]]


def test_long_fields_are_read(tmp_path: Path) -> None:
    csv.field_size_limit(131_072)
    long = "long text, " * 20_000
    content = f'id,text\n1,first\n2,"{long}"\n' + "".join(f"{n},row {n}\n" for n in range(200))
    (path := tmp_path / "a.csv.gz").write_bytes(gzip.compress(content.encode()))
    found = list(read(path))
    assert len(found) == 202
    assert [row.text for row in found[:3] if isinstance(row, Document)] == ["first", long, "row 0"]


def test_a_line_too_long_costs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "LONGEST", 60)
    content = "id,text\n1," + "x" * 80 + '\n2,b\n3,"open\n' + "é" * 40 + "\n4,d\n"
    assert texts(tmp_path / "a.csv", content) == [
        "line 2: a line of more than 60 bytes", "b",
        "line 4: the quote that opens in line 4 never closes; what follows is lost with it: 1 line", "d",
    ]  # fmt: skip


def test_encodings(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    assert texts(path, b"\xef\xbb\xbftext,id\r\none,1\r\n") == ["one"]
    (bad, good) = texts(path, b"id,text\n1,caf\xe9\n2,b\n")
    assert (bad.startswith("line 2: not UTF-8 (byte 0xe9"), good) == (True, "b")
    assert texts(path, "id,text\n1,\u4e00\n".encode("utf-16")) == [
        "line 1: it is UTF-16 or UTF-32, by its byte order mark; save it as UTF-8"
    ]
    assert "UTF-16" in texts(path, "id,text\n1,a\n".encode("utf-16-le"))[0]
    assert losses(path) == [(1, "file")]
    assert texts(path, b"id,text\r1,a\r2,b\r") == ["a", "b"], "lines of the first Macs"
    for nothing in (b"", b"\xef\xbb\xbf", b"\n\n"):
        assert texts(path, nothing) == ["line 1: empty"]
        assert losses(path) == [(0, "file")]


@pytest.mark.parametrize(
    ("name", "content", "right"),
    [
        ("a.csv", "id;text\n1;a, b\n", ["a, b"]),
        ("a.csv", "id\ttext\n1\ta;b\n", ["a;b"]),
        ("a.csv", "id|text\n1|a;b\n", ["a;b"]),
        ("a.csv", "sep=;\nid;text\n1;a\n", ["a"]),
        ("a.csv", "text\nhello\tworld\n", ["hello\tworld"]),
        ("a.csv", "\n\ntext,id\na,1\n", ["a"]),
        ("a.tsv", "text\tid,x\na, b\t1\n", ["a, b"]),
    ],
)
def test_the_delimiter_is_the_one_that_the_header_needs(name: str, content: str, right: list[str], tmp_path: Path) -> None:
    assert texts(tmp_path / name, content) == right


def test_columns_that_are_not_there_or_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    assert texts(path, "id;body\n1;a\n") == ["line 1: no column 'text'; there are: id, body"]
    assert texts(path, "text,text\n1,2\n") == ["line 1: 2 columns are named 'text', so it is not clear which to read"]
    assert texts(path, 'id,"text\n1,a\n') == [
        "line 1: its header cannot be read: the quote that opens in line 1 never closes; what follows is lost with it: 1 line"
    ]
    (reason,) = texts(path, ",".join("n" * 100 for _ in range(1000)) + "\n")
    assert len(reason) < 2000
    assert reason.endswith("and 980 more")
    assert losses(path) == [(1, "file")]


class Broken(io.BytesIO):
    """A stream that breaks and can then be read further."""

    def __init__(self, *parts: bytes | Exception):
        super().__init__()
        self.parts = list(parts)

    def readline(self, most: int | None = -1, /) -> bytes:
        while self.parts:
            part = self.parts[0]
            if isinstance(part, Exception):
                del self.parts[0]
                raise part
            line, end, rest = part.partition(b"\n")
            self.parts[:1] = [rest] if rest else []
            return line + end
        return b""


def test_breaks_of_the_stream_cost_the_rows_that_they_cut() -> None:
    parts = (
        b'id,text\n1,a\n2,"open\nand on\n',
        Unreadable("hole", unit="part"),
        b"the end of a row\n3,c\n",
        OSError("no more"),
    )
    found = [
        (line, str(row), row.unit if isinstance(row, Unreadable) else "")
        for line, row in CsvRows(Broken(*parts)).column("text")
    ]
    assert found == [
        (2, "a", ""),
        (3, "the quote that opens in line 3 never closes; what follows is lost with it: 1 line", "row"),
        (5, "the compressed stream is broken: hole", "part"),
        (5, "c", ""),
        (6, "the rest of the file cannot be read (no more)", "file"),
    ]
