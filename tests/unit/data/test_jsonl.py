"""JSON Lines and other JSON: arrays, objects over several lines, and bad rows."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pyarrow as pa
import pytest

from foundray.data.formats import jsonl
from foundray.data.formats.row import BadRow, Document
from foundray.spec import SourceConfig

ROWS = [{"id": n, "text": f"text {n}", "parts": [{"id": n, "text": "inside"}]} for n in range(5)]
TEXTS = [f"text {n}" for n in range(5)]
LAYOUTS: dict[str, dict[str, Any]] = {"one line": {}, "spaces": {"indent": 2}, "tabs": {"indent": "\t"}}


def read(content: bytes | str, name: str = "a.json", field: str = "text") -> tuple[list[str], list[BadRow]]:
    data = content.encode() if isinstance(content, str) else content
    rows = list(jsonl.read(pa.BufferReader(data), name, SourceConfig(path=name, format="jsonl", field=field)))
    return [row.text for row in rows if isinstance(row, Document)], [row for row in rows if isinstance(row, BadRow)]


def reasons(content: bytes | str, **options: str) -> list[str]:
    return [f"{row.position}: {row.reason}" for row in read(content, **options)[1]]


# Lines


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"body": "a", "id": 1}', "no field 'text'; it has: body, id"),
        ("{}", "no field 'text'; it is {}"),
        (json.dumps({f"{n}": n for n in range(30)}), "no field 'text'; it has: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 20 more"),
        ('{"text": {"a": "b"}}', "'text' is an object, not text"),
        ('{"text": ["a"]}', "'text' is an array, not text"),
        ('{"text": true}', "'text' is true or false, not text"),
        ('{"text": NaN}', "'text' is a number, not text"),
        ('{"text": ' + "9" * 5000 + "}", "'text' is a number, not text"),
        ('{"text": null}', "'text' is missing"),
        ('{"text": "a", "text": "b"}', "field 'text' occurs 2 times, with different values"),
        ('{"text": ' + "[" * 100_000, "its values are nested too deeply"),
        ('{"text": "\\ud800"}', "holds half a surrogate pair, which is not Unicode text"),
        ('["text"]', "not a JSON object but an array"),
        ('"text"', "not a JSON object but a string"),
        ("{broken", "not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("\0\0\0", "holds NUL bytes, which JSON cannot"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_used_has_one_clear_reason(line: str, reason: str) -> None:
    texts, bad = read('{"text": "before"}\n' + line + '\n{"text": "behind"}\n')
    assert texts == ["before", "behind"]
    assert bad == [BadRow("line 2", reason)]


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "two", "id": ' + "9" * 5000 + "}",
        '{"text": "two", "x": NaN, "y": -Infinity}',
        '{"text": "two", "text": "two"}',
        '{"parts": {"text": "inside"}, "text": "two"}',
        '\ufeff{"text": "two"}',
        ' {"text" : "two" } \r',
    ],
)
def test_a_row_whose_text_is_fine_is_read(line: str) -> None:
    assert read('{"text": "one"}\n' + line + '\n{"text": "three"}') == (["one", "two", "three"], [])


def test_bytes_that_are_not_utf_8() -> None:
    texts, (bad,) = read(b'{"text": "one"}\n{"text": "caf\xe9"}\n{"text": "three"}\n')
    assert (texts, bad.position) == (["one", "three"], "line 2")
    assert "Latin-1" in bad.reason


def test_objects_with_nothing_between_them() -> None:
    """As when `cat` joins files whose last line has no line break."""
    assert read('{"text": "one"}\n{"text": "two"}{"text": "three"} {"other": 4}\n{"text": "five"}') == (
        ["one", "two", "three", "five"],
        [BadRow("line 2", "no field 'text'; it has: other")],
    )
    assert "Extra data" in reasons('{"text": "one"}\n{"text": "two"}{"tex')[0]


def test_a_stretch_of_nul_bytes_is_one_line() -> None:
    lines = b"\0" * 5000 + b"\n" + b"\0\n" * 300 + b'\0\0{"text": "half"}\n'
    texts, bad = read(b'{"text": "one"}\n' + lines + b'{"text": "two"}\n\0\n')
    assert texts == ["one", "two"]
    reason = "holds NUL bytes, which JSON cannot"
    assert bad == [BadRow("line 2 to line 303", reason, 302), BadRow("line 305", reason)]


def test_empty_files_and_lines() -> None:
    assert read("") == ([], [BadRow("byte 0", "empty", 0, "file")])
    assert read("[]") == ([], [BadRow("byte 0", "empty", 0, "file")])
    texts, bad = read('{"text": "one"}\n\n \n{"text": " "}\n')
    assert (texts, [(row.position, row.lost) for row in bad]) == (["one"], [("line 2", 0), ("line 3", 0), ("line 4", 0)])


# Arrays, and objects over several lines


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_array_is_its_elements(layout: str) -> None:
    array = json.dumps(ROWS, **LAYOUTS[layout])
    assert read(array) == (TEXTS, [])
    assert read("\ufeff \n" + array) == (TEXTS, [])
    assert read(array + "\n" + array) == (TEXTS * 2, [])
    assert read(gzip.compress(array.encode()), "a.json.gz") == (TEXTS, [])
    assert read("[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]") == (TEXTS, [])
    assert read("[" + ",".join(map(json.dumps, ROWS)) + ",]") == (TEXTS, [])


def test_elements_that_are_no_rows() -> None:
    texts, bad = read(json.dumps([ROWS[0], 3, {"body": 1}, ["x"], ROWS[1]]))
    assert texts == TEXTS[:2]
    assert [f"{row.position}: {row.reason}" for row in bad] == [
        "element 2: not a JSON object but a number", "element 3: no field 'text'; it has: body",
        "element 4: not a JSON object but an array",
    ]  # fmt: skip
    huge = '[{"text": "one", "n": ' + "9" * 5000 + '}, {"text": ' + "9" * 5000 + '}, {"text": "three"}]'
    assert read(huge) == (["one", "three"], [BadRow("element 2", "'text' is a number, not text")])
    twice = '[{"text": "a", "text": "b"}, {"text": "c"}]'
    assert read(twice)[0] == ["c"]


def test_objects_over_several_lines() -> None:
    for between in ("\n", "", ",\n", "\r\n\r\n"):
        assert read(between.join(json.dumps(row, indent=1) for row in ROWS)) == (TEXTS, [])
    assert read(json.dumps(ROWS[0], indent=4).replace("\n", "\r")) == (TEXTS[:1], [])


@pytest.mark.parametrize("layout", ["spaces", "tabs"])
@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize(
    ("right", "wrong"), [('"text {}"', '"text {}'), ('"text": "text {}"', '"text" "text {}"'), ('"text {}"', "\0")]
)
def test_a_damaged_element_costs_itself(layout: str, number: int, right: str, wrong: str) -> None:
    array = json.dumps(ROWS, **LAYOUTS[layout]).replace(right.format(number), wrong.format(number))
    texts, (bad,) = read(array)
    assert texts == TEXTS[:number] + TEXTS[number + 1 :]
    assert (bad.position, bad.lost, bad.unit) == (f"element {number + 1}", 1, "row")
    assert bad.reason.startswith("not JSON: ")


def test_a_damaged_element_of_one_line() -> None:
    """The next element is found by its first key, unless that also occurs inside elements."""
    rows = [{"key": n, "text": f"text {n}", "parts": [{"text": "inside"}]} for n in range(5)]
    array = json.dumps(rows).replace('"text 2"', '"text 2')
    assert read(array)[0] == ["text 0", "text 1", "text 3", "text 4"]
    texts, (bad,) = read(json.dumps(ROWS).replace('"text 2"', '"text 2'))
    assert texts == TEXTS[:2]
    assert bad.reason.endswith("; the elements after it cannot be separated, and are lost with it")
    assert read(json.dumps(ROWS).replace('"text 0"', '"text 0'))[1][0].reason.endswith(bad.reason[-40:])
    # Of the first element, only its own key is known.
    lines = "[" + ",\n".join(map(json.dumps, ROWS)).replace('"text 0"', '"text 0') + "]"
    assert read(lines)[0] == TEXTS[1:]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_array_that_is_cut_off(layout: str) -> None:
    array = json.dumps(ROWS, **LAYOUTS[layout])
    place = array.index("text 3")
    assert read(array[:place]) == (TEXTS[:3], [BadRow("element 4", "the file is cut off in it")])
    assert read(array[:-1]) == (TEXTS, [BadRow("element 6", "the array does not end: the file may be cut off here")])
    packed = gzip.compress(json.dumps(ROWS * 1000, **LAYOUTS[layout]).encode())
    texts, (bad,) = read(packed[: len(packed) // 2], "a.json.gz")
    assert texts == (TEXTS * 1000)[: len(texts)]
    assert bad.position == f"element {len(texts) + 1}"
    assert "the compressed stream is broken: it is cut off" in bad.reason
    texts, (bad,) = read(gzip.compress(array.encode()) + b"garbage", "a.json.gz")
    assert (texts, bad.unit) == (TEXTS, "part")


def test_bytes_of_an_element_that_are_not_utf_8() -> None:
    array = json.dumps(ROWS, indent=1).encode().replace(b"text 2", b"text \xe9")
    assert read(array) == ([*TEXTS[:2], *TEXTS[3:]], [BadRow("element 3", "not UTF-8")])


def test_lines_are_not_taken_for_an_array() -> None:
    """However the first line starts, the rows after it are read."""
    for first in ("[1]", "[INFO] started", '{"text": "cut', '{"text": "cut",', "{"):
        texts, (bad,) = read(f'{first}\n{{"text": "one"}}\n{{"text": "two"}}\n')
        assert texts == ["one", "two"]
        assert bad.position == "line 1"


def test_an_element_longer_than_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": "é" * size} for size in (10, 3_000_000, 5, 2_000_000)]
    for indent in (None, 1):
        texts, bad = read(json.dumps(rows, indent=indent, ensure_ascii=False))
        assert ([len(text) for text in texts], bad) == ([10, 3_000_000, 5, 2_000_000], [])
    monkeypatch.setattr("foundray.data.formats.json_elements.LONGEST_ROW", 1_000_000)
    texts, bad = read(json.dumps(rows, indent=1, ensure_ascii=False))
    assert [len(text) for text in texts] == [10, 5]
    assert [f"{row.position}: {row.reason}" for row in bad] == [
        "element 2: an element of more than 1,000,000 characters", "element 4: an element of more than 1,000,000 characters",
    ]  # fmt: skip
