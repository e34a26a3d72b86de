"""What the columns of a table, or the fields of JSON Lines, hold: text to learn from, or numbers over time."""

from __future__ import annotations

import io
import json
import math
import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from foundray.contract import Unreadable
from foundray.contract.csv_rows import CsvRows
from foundray.data.files.files import RawFile
from foundray.data.files.names import bare, compression
from foundray.proposing.prefix import measured_bytes, whole, whole_rows
from foundray.storage import Store, reading

SEEN_BYTES, LONG_BYTES = 2**18, 2**23
"""Bytes of a file that are looked at; and of one whose first row is longer."""
SEEN_ROWS = 400
LEAST_LENGTH = 24
"""Characters from which on a column's mean value may be text (judgement: names, dates and keys are shorter)."""
LETTERS = 0.5
"""Least share of letters in text."""
NUMERIC = 0.9
"""Least share of numbers among a numeric column's values."""
NAMES = ("text", "content", "body", "document")
"""Names that columns of text usually have, the likeliest first."""
COUNTING = frozenset(
    ("time", "timestamp", "datetime", "date", "epoch", "ts", "index", "idx", "id", "row", "step", "frame", "seconds", "ms")
)
"""Words in names of columns that may count up unevenly, as time stamps do."""
FEWEST_COUNTS = 16
"""Fewest values that show by their equal steps alone that a column counts (judgement)."""
SAME_STEP = 1e-3
"""Largest difference between equal steps, as a share of one: written decimals are rounded."""


@dataclass(frozen=True)
class Columns:
    """Some rows of a file, column by column."""

    values: dict[str, list[Any]]
    rows: float
    """Estimated rows of the whole file."""

    def texts(self) -> list[str]:
        """Columns that hold text, the one to learn from first."""
        found = {name: values for name, values in self.values.items() if _is_text(values)}
        known = {name: at for at, name in enumerate(NAMES)}
        return sorted(found, key=lambda name: (known.get(name.lower(), len(NAMES)), -sum(map(len, map(str, found[name])))))

    def numbers(self) -> list[str]:
        """Columns that hold numbers, without those that count rows."""
        return [name for name, values in self.values.items() if _is_numeric(values) and not _counts(name, values)]

    def counters(self) -> list[str]:
        """Of these, the columns that only count up, such as an index or a time stamp; none if there is nothing else."""
        numbers = self.numbers()
        found = [name for name in numbers if _counts_up(name, self.values[name])]
        return found if len(found) < len(numbers) else []

    def has_commas(self, name: str) -> bool:
        return any("," in value for value in self.values[name] if isinstance(value, str))


def columns_of(file: RawFile) -> Columns:
    """Columns of the file's first rows; none for a file that cannot be read."""
    try:
        form = "parquet" if bare(file.url).endswith((".parquet", ".pq")) else file.format
        if form == "parquet":
            return _of_parquet(file)
        read = _of_json if form == "jsonl" else _of_csv
        found = read(file, SEEN_BYTES)
        return found if found.rows else read(file, LONG_BYTES)
    except (Unreadable, ValueError, OSError, ArithmeticError):
        return Columns({}, 0)


def holds_series(file: RawFile) -> bool:
    """Whether a table has numbers to learn from, and no text."""
    columns = columns_of(file)
    return bool(columns.numbers()) and not columns.texts()


def _of_parquet(file: RawFile) -> Columns:
    store = Store.at(file.url)
    with reading(file.url), store.filesystem.open_input_file(store.path) as handle:
        table = pq.ParquetFile(io.BytesIO(whole(file)) if compression(file.url) else handle)
        plain = [field.name for field in table.schema_arrow if not pa.types.is_nested(field.type)]
        batch = next(table.iter_batches(SEEN_ROWS, columns=plain), None)
        return Columns({} if batch is None else batch.to_pydict(), table.metadata.num_rows)


def _of_csv(file: RawFile, most: int) -> Columns:
    content, ratio = measured_bytes(file, most)
    content = whole_rows(content, quoted=True) if len(content) == most else content
    tabs = "\t,;|" if bare(file.url).endswith(".tsv") else ",;\t|"
    table = CsvRows(io.BytesIO(content), (), tabs)
    rows = [row for _, row in table.rows() if isinstance(row, list)]
    values = {name: [row[at] for row in rows] for at, name in enumerate(table.names)}
    return Columns(values, file.size * ratio * len(rows) / max(1, len(content)))


def _of_json(file: RawFile, most: int) -> Columns:
    content, ratio = measured_bytes(file, most)
    lines = content.split(b"\n")
    lines = lines[:-1] if len(content) == most and len(lines) > 1 else lines
    values, count = defaultdict[str, list[Any]](list), 0
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # not JSON, or nested too deeply
            continue
        count += 1
        for name, value in row.items() if isinstance(row, dict) else ():
            values[name].append(value)
    return Columns(dict(values), file.size * ratio * count / max(1, len(content)))


def _is_text(values: list[Any]) -> bool:
    texts = [value for value in values if isinstance(value, str) and value]
    characters = sum(map(len, texts))
    letters = sum(character.isalpha() for text in texts for character in text[:1000])
    seen = sum(min(1000, len(text)) for text in texts)
    return 2 * len(texts) > len(values) and characters >= LEAST_LENGTH * len(texts) and letters >= LETTERS * seen


def _is_numeric(values: list[Any]) -> bool:
    given = [value for value in values if value not in (None, "") and not isinstance(value, bool)]
    return bool(given) and sum(map(is_number, given)) >= NUMERIC * len(given)


def is_number(value: Any) -> bool:
    try:
        _float(value)
    except (TypeError, ValueError):
        return False
    return True


def _counts(name: str, values: list[Any]) -> bool:
    """Whether an unnamed column only counts rows, as pandas and R write it."""
    if name and not name.startswith(("Unnamed", "__index")) and name != "index":
        return False
    numbers = _numbers(values)
    return len(numbers) > 1 and all(b - a == 1 for a, b in pairwise(numbers))


def _counts_up(name: str, values: list[Any]) -> bool:
    """Whether a column rises by equal steps, or is named like an index or a time and never falls."""
    steps = [b - a for a, b in pairwise(filter(math.isfinite, _numbers(values)))]
    if not steps or min(steps) < 0 or max(steps) == 0:
        return False
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
    if any(word.lower() in COUNTING for word in words):
        return True
    return len(steps) >= FEWEST_COUNTS and max(steps) - min(steps) <= SAME_STEP * max(steps)


def _numbers(values: list[Any]) -> list[float]:
    return [_float(value) for value in values if is_number(value)]


def _float(value: Any) -> float:
    return float(value.replace(",", ".") if isinstance(value, str) else value)
