"""Series in files: values read, values left out and reported, and the precision of standardisation."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foundray.contract import load_modality
from foundray.data.files.files import find_files
from foundray.data.prepare.sources import BadRow, read_located_rows
from foundray.spec import SourceConfig
from foundray_modalities.series import standardised

STEPS = 16
"""Steps per sample, and patches per sample."""
SINE = [round(float(value), 3) for value in np.sin(np.arange(2 * STEPS) / 5)]
Found = tuple[list[tuple[str, np.ndarray]], list[tuple[str, str, int, str]]]


def read(path: Path, content: str | bytes, **options: Any) -> Found:
    """(position, values) of the rows of a file with this content, and (position, reason, lost, unit) of the notes."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    modality = load_modality("series", {"patch": 1, **options})
    source = SourceConfig(path=str(path), format="files")
    rows, said = [], []
    for file in find_files(source, modality.endings):
        for _, position, row in read_located_rows(file, source, modality, STEPS):
            if isinstance(row, BadRow):
                said.append((row.position, row.reason, row.lost, row.unit))
            else:
                rows.append((position, row["values"]))
                for seed in range(3):  # what is prepared can be trained on
                    assert np.isfinite(modality.units(row, STEPS, np.random.default_rng(seed)).x).all()
    return rows, said


def units(values: Sequence[float] | np.ndarray) -> np.ndarray:
    return load_modality("series", {"patch": 1}).units({"values": np.asarray(values)}, STEPS, None).x.flatten()


def table(header: str, *columns: Sequence[object], delimiter: str = ",") -> str:
    rows = [header] if header else []
    return "\n".join(rows + [delimiter.join(map(str, row)) for row in zip(*columns, strict=True)]) + "\n"


def channels(rows: list[tuple[str, np.ndarray]]) -> dict[str, list[float]]:
    return {position.rpartition(" ")[2]: values.tolist() for position, values in rows}


# Precision


def test_small_changes_of_large_values_keep_their_shape(tmp_path: Path) -> None:
    growth = np.random.default_rng(0).integers(0, 31, STEPS).cumsum()
    for start in (0, 4_000_000_000, 1_700_000_000_123):
        (rows, said) = read(tmp_path / "meter.csv", table("wh", (start + growth).tolist()))
        assert (said, rows[0][1].dtype) == ([], np.float64)
        assert np.allclose(units(rows[0][1]), (growth - growth.mean()) / growth.std(), atol=1e-3 if start > 1e12 else 1e-6)


def test_a_signal_is_the_same_in_any_unit() -> None:
    signal = np.random.default_rng(0).standard_normal(STEPS)
    right = (signal - signal.mean()) / signal.std()
    for scale in (1e-300, 20e-6, 20.0, 1e30, 1e38):
        assert np.allclose(units(signal * scale), right, atol=1e-6), scale
    assert units(signal).dtype == np.float32


@pytest.mark.parametrize("value", [0.0, 0.1, -4e9, 1e-300, 1e38])
def test_a_constant_window_is_zeros(value: float) -> None:
    assert (units([value] * STEPS) == 0).all()


def test_whole_numbers_are_exact_however_small_their_changes_and_too_large_ones_are_refused(tmp_path: Path) -> None:
    assert standardised(2.0**53 - 100 + np.arange(16)).std() == pytest.approx(1)
    for first in (2**53, 1_700_000_000_000_000_000):
        content = "\n".join(["x", *(str(first + number % 7) for number in range(40))]).encode()
        said = [str(row) for _, row in load_modality("series", {"patch": 4}).rows("a.csv", content, 4)]  # type: ignore[attr-defined]
        assert "change by less than float64 can resolve" in said[0]


def test_rounding_is_no_signal() -> None:
    noisy = np.full(STEPS, 0.3)
    noisy[::3] = 0.1 + 0.2
    assert noisy.std() > 0
    assert np.abs(units(noisy)).max() < 1e-3


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("1e39", "1e+39 at step 40 is too large for float32, so it cannot be a measurement"),
        ("-inf", "-inf at step 40 is too large for float32, so it cannot be a measurement"),
        ("1e999", "inf at step 40 is too large for float32, so it cannot be a measurement"),
        ("1e30", "1e+30 at step 40 is so large that the other values vanish beside it"),
        ("9.96921e36", "9.96921e+36 at step 40 is so large that the other values vanish beside it"),
        ("", "a gap at step 40"),
        ("1_000", "a gap at step 40"),
    ],
)
def test_values_that_would_spoil_a_window_cost_its_stretch_and_channel(value: str, reason: str, tmp_path: Path) -> None:
    x: list[Any] = [1.0 + n % 7 for n in range(6 * STEPS)]
    y = list(x)
    x[40] = value
    rows, said = read(tmp_path / "a.csv", table("x,y", x, y))
    assert [position for position, _ in rows] == [
        "step 0, channel 0", "step 0, channel 1", "step 32, channel 1", "step 64, channel 0", "step 64, channel 1",
    ]  # fmt: skip
    assert said == [("step 32, channel 0", reason, 1, "row")]


def test_rare_events_are_no_damage(tmp_path: Path) -> None:
    once = [0] * 40 + [1] + [0] * 23
    burst = [n % 5 for n in range(64)]
    burst[50] = 1_000_000
    rows, said = read(tmp_path / "a.csv", table("once,burst", once, burst))
    assert (len(rows), said) == (4, [])


# Columns


def test_columns_of_one_name_are_both_taken_or_refused_by_name(tmp_path: Path) -> None:
    content = table("t,x,x", [f"d{n}" for n in range(32)], SINE, range(32))
    rows, said = read(tmp_path / "a.csv", content)
    assert channels(rows) == {"0": SINE, "1": [float(n) for n in range(32)]}
    assert said == [("header", "taken: x (column 2), x (column 3); left out: t (not numbers)", 0, "column")]
    rows, said = read(tmp_path / "a.csv", content, columns=["x"])
    assert (rows, said) == ([], [("byte 0", "2 columns are named 'x', so it is not clear which to read", 1, "file")])


@pytest.mark.parametrize(
    ("x", "right", "rule"),
    [
        ([f'"12,{345 + n}"' for n in range(32)], [12345.0 + n for n in range(32)], "commas between thousands"),
        ([f'"{990 + n:,}"' for n in range(32)], [990.0 + n for n in range(32)], "commas between thousands"),
        ([f'"{990.5 + n:,}"' for n in range(32)], [990.5 + n for n in range(32)], "commas between thousands"),
        ([f'"{v}"'.replace(".", ",") for v in SINE], SINE, "decimal commas"),
        ([f'"1.{234 + n},5"' for n in range(32)], [1234.5 + n for n in range(32)],
         "points between thousands and decimal commas"),
        ([f'"1 {234 + n},5"' for n in range(32)], [1234.5 + n for n in range(32)],
         "spaces between thousands and decimal commas"),
        ([f"1'{234 + n}.5" for n in range(32)], [1234.5 + n for n in range(32)], "spaces between thousands"),
        ([f"{v} %" for v in SINE], SINE, "in %"),
        ([f"${10 + v:.2f}" for v in SINE], [round(10 + v, 2) for v in SINE], "in $"),
        ([f"{v}".replace("-", "\u2212") for v in SINE], SINE, ""),
        ([f"{v:.3e}" for v in SINE], SINE, ""),
        (["TRUE" if n % 3 else "false" for n in range(32)], [float(n % 3 > 0) for n in range(32)], ""),
    ],
)  # fmt: skip
def test_numbers_are_read_as_they_are_written(x: list[str], right: list[float], rule: str, tmp_path: Path) -> None:
    rows, said = read(tmp_path / "a.csv", table("x,y", x, SINE))
    assert channels(rows) == {"0": right, "1": SINE}
    assert said == ([("header", f"taken: x ({rule}), y", 0, "column")] if rule else [])


@pytest.mark.parametrize(
    ("x", "why"),
    [
        ([f'"{990 + n:,}"' for n in range(32)], "it has decimal commas, or commas between thousands"),
        ([f"{n}%" if n % 2 else f"{n}" for n in range(32)], "its numbers have no sign or %"),
        ([f"€{n}" if n % 2 else f"${n}" for n in range(32)], "its numbers have $ or €"),
    ],
)
def test_ambiguous_columns_are_refused_by_name(x: list[str], why: str, tmp_path: Path) -> None:
    content = table("x,y", x, range(32))
    rows, said = read(tmp_path / "a.csv", content)
    assert channels(rows) == {"0": [float(n) for n in range(32)]}
    assert said == [
        ("header", f"the column 'x' is refused: {why}", 1, "column"),
        ("header", "taken: y; left out: x (refused)", 0, "column"),
    ]
    assert read(tmp_path / "a.csv", content, columns=["x"]) == (
        [], [("byte 0", f"the column 'x' cannot be read as numbers: {why}", 1, "file")],
    )  # fmt: skip


def test_semicolons_with_decimal_commas(tmp_path: Path) -> None:
    rows, said = read(tmp_path / "a.csv", table("date;x", range(32), [str(v).replace(".", ",") for v in SINE], delimiter=";"))
    assert channels(rows) == {"0": [float(n) for n in range(32)], "1": SINE}
    assert said == [("header", "taken: date, x (decimal commas)", 0, "column")]


def test_a_header_that_is_numbers(tmp_path: Path) -> None:
    remark = "its first row has numbers, so it is data, and columns are named by their index; taken: "
    rows, said = read(tmp_path / "a.csv", table("", SINE, [2 * v for v in SINE]))
    assert channels(rows) == {"0": SINE, "1": [2 * v for v in SINE]}
    assert said == [("header", remark + "0, 1", 0, "column")]
    rows, said = read(tmp_path / "a.csv", table("", [f"2020-01-01 {n:02}" for n in range(32)], SINE))
    assert channels(rows) == {"0": SINE}
    assert said == [("header", remark + "1; left out: 0 (not numbers)", 0, "column")]
    assert channels(read(tmp_path / "a.csv", table("", SINE, range(32)), columns=["1"])[0]) == {
        "0": [float(n) for n in range(32)]
    }
    # Names that count up, such as pandas' default names, and years.
    for header in ("0,1,2", "1,2,3", "2019,2020,2021", "1990,2000,2010"):
        assert len(read(tmp_path / "a.csv", table(header, SINE, SINE, SINE))[0][0][1]) == 32
    assert channels(read(tmp_path / "a.csv", table("0", SINE))[0]) == {"0": SINE}
    assert channels(read(tmp_path / "a.csv", table("", range(32)))[0]) == {"0": [float(n) for n in range(32)]}


def test_an_index_beside_the_data(tmp_path: Path) -> None:
    for header, shown in (
        (",x", "without a name (column 1, it only counts rows)"),
        ("Unnamed: 0,x", "Unnamed: 0 (it only counts rows)"),
    ):
        rows, said = read(tmp_path / "a.csv", table(header, range(7, 39), SINE))
        assert channels(rows) == {"0": SINE}
        assert said == [("header", f"taken: x; left out: {shown}", 0, "column")]
    assert channels(read(tmp_path / "a.csv", table(",x", range(32), SINE), columns=[""])[0]) == {
        "0": [float(n) for n in range(32)]
    }
    assert channels(read(tmp_path / "a.csv", table(",x", SINE, SINE))[0]) == {"0": SINE, "1": SINE}, "it does not count"


def test_tables_without_a_series(tmp_path: Path) -> None:
    def why(content: str | bytes, name: str = "a.csv") -> str:
        (rows, ((_, reason, lost, unit),)) = read(tmp_path / name, content)
        assert (rows, lost, unit) == ([], 1, "file")
        return reason

    assert why("a,b\n") == "no rows under the header"
    assert why(table("when,who", ["x"] * 40, ["y"] * 40)) == (
        "it has no numeric column; there are: when (not numbers), who (not numbers)"
    )
    assert why(table("a", range(40), range(40))) == "40 of its 40 rows do not have as many fields as its header (1)"
    assert why(table("a b", [f"{n} {n + 100}" for n in range(40)])) == (
        "its fields are separated by spaces; use commas, semicolons, tabs or bars"
    )
    assert "byte order mark" in why("a,b\n1,2\n".encode("utf-16"))
    assert read(tmp_path / "a.csv", "") == ([], [("byte 0", "empty", 0, "file")])
    assert read(tmp_path / "a.csv", table("x", range(5)))[1] == [
        ("step 0", "a series of 5 steps is shorter than a sample of 16", 1, "series")
    ]
    rows, said = read(tmp_path / "a.csv", table("x", range(39)))
    assert len(rows) == 1
    assert said == [("end", "the last 7 steps are left out: they are fewer than a sample of 16", 0, "step")]


def test_a_quote_that_never_closes_is_a_gap(tmp_path: Path) -> None:
    lines = table("x,y", range(96), range(96)).splitlines()
    lines[41] = '40,"40'
    rows, said = read(tmp_path / "a.csv", "\n".join(lines))
    assert len(rows) == 4
    why = "the quote that opens in line 42 never closes; the rows after that line are read"
    assert said == [(f"step 32, channel {channel}", f"a gap at step 40: {why}", 1, "row") for channel in (0, 1)]


# Parquet


def written(columns: dict[str, Any], **options: Any) -> bytes:
    pq.write_table(pa.table(columns), file := io.BytesIO(), **options)
    return file.getvalue()


def test_columns_of_parquet(tmp_path: Path) -> None:
    latin = pa.array([b"caf\xe9"] * 32).view(pa.string())
    columns = {
        "s": latin,
        "x": SINE,
        "when": pa.array(range(32), pa.timestamp("s")),
        "list": [[1.0]] * 32,
        "whole": pa.array(range(32), pa.uint64()),
        "decimal": pa.array(range(32), pa.int32()).cast(pa.decimal128(12, 2)),
        "half": pa.array(np.arange(32, dtype=np.float16)),
        "on": [n % 2 == 0 for n in range(32)],
        "written": pa.array([str(v) for v in SINE]).dictionary_encode(),
        "none": pa.nulls(32),
        "__index_level_0__": range(32),
    }
    rows, said = read(tmp_path / "a.parquet", written({name: pa.array(values) for name, values in columns.items()}))
    count = [float(n) for n in range(32)]
    assert channels(rows) == {"0": SINE, "1": count, "2": count, "3": count, "4": [1.0, 0.0] * 16, "5": SINE}
    assert said == [
        ("header", "taken: x, whole, decimal, half, on, written; left out: s (not numbers), when (timestamp[ms]), "
         "list (list<element: double>), none (null), __index_level_0__ (it only counts rows)", 0, "column")
    ]  # fmt: skip
    refused = read(tmp_path / "a.parquet", written({"list": pa.array([[1.0]] * 32)}), columns=["list"])[1]
    assert refused == [("byte 0", "the column 'list' cannot be read as numbers: list<element: double>", 1, "file")]


def test_damage_to_a_column_of_parquet_is_a_gap_in_it(tmp_path: Path) -> None:
    x = np.arange(96.0)
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    content = written({"x": x, "y": -x}, row_group_size=32, **options)
    at = content.index(np.array([-40.0, -41.0]).tobytes())
    content = content[:at] + b"\1" + content[at + 1 :]
    rows, said = read(tmp_path / "a.parquet", content)
    assert [position for position, _ in rows] == [
        "step 0, channel 0", "step 0, channel 1", "step 32, channel 0", "step 64, channel 0", "step 64, channel 1",
    ]  # fmt: skip
    ((position, reason, lost, unit),) = said
    assert (position, lost, unit) == ("step 32, channel 1", 1, "row")
    assert reason.startswith("a gap at step 32: row group 1 cannot be read from row 32 on (32 of 32 rows): ")
    content = written({"x": x, "y": -x}, **options)
    content = content.replace(np.array([-40.0]).tobytes(), b"\1" * 8)
    rows, said = read(tmp_path / "a.parquet", content)
    assert [position for position, _ in rows] == [f"step {step}, channel 0" for step in (0, 32, 64)]
    assert said[0][1].startswith("the column 'y' is refused: row group 0 cannot be read")
    assert (said[0][2:], said[1][1]) == ((1, "column"), "taken: x; left out: y (refused)")


# .ts files


HEAD = "#a comment\n@problemName\tx\n@timeStamps false\n@Dimensions 2\n@CLASSLABEL  true a b\n@DATA\n"
WHOLE = ",".join(map(str, SINE[:20]))
SHORT = ",".join(map(str, SINE[:10]))


def test_a_bad_case_costs_itself(tmp_path: Path) -> None:
    lines = [
        f"{WHOLE}:{WHOLE}:a", f"{SHORT}:{SHORT}:b", "# a comment", "", f"{WHOLE}:{SHORT}:a", f" {WHOLE} : {WHOLE} : b ",
        f"{WHOLE}:b", "b", f"{WHOLE.replace('0.199', '?')}:{WHOLE}:a", f"{WHOLE}:{WHOLE}:b",
    ]  # fmt: skip
    for content in (HEAD + "\n".join(lines), "\ufeff" + HEAD.replace("\n", "\r\n") + "\r\n".join(lines) + "\r\n"):
        rows, said = read(tmp_path / "a.ts", content)
        assert [position for position, _ in rows] == [
            f"line {line}, step 0, channel {channel}"
            for line, channel in ((7, 0), (7, 1), (12, 0), (12, 1), (15, 1), (16, 0), (16, 1))
        ]
        assert said == [
            ("line 8", "a series of 10 steps is shorter than a sample of 16", 1, "case"),
            ("line 11", "its dimensions have different lengths, from 10 to 20", 1, "case"),
            ("line 13", "it has 1 dimension, and the header says 2", 1, "case"),
            ("line 14", "it has no class, or no values before it", 1, "case"),
            ("line 15, step 0, channel 0", "a gap at step 1", 1, "row"),
        ]


def test_targets_time_stamps_and_cases_without_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    rows, said = read(path, "@univariate true\n@targetlabel true\n@data\n" + f"{WHOLE}:3.5\n" * 3)
    assert (len(rows), said) == (3, [])
    assert len(read(path, "@univariate true\n@classLabel false\n@data\n" + f"{WHOLE}\n" * 3)[0]) == 3
    stamped = ",".join(f"(2020-01-01 00:{n:02}:00,{v})" for n, v in enumerate(SINE))
    rows, said = read(path, f"@timestamps true\n@classlabel true a\n@data\n{stamped}:a\n")
    assert channels(rows) == {"0": SINE}
    assert said == [("header", "time stamps are ignored: steps are assumed to be evenly spaced", 0, "column")]
    assert read(path, "let x: number = 1\n")[1] == [("byte 0", "not a .ts file: it has no @data", 1, "file")]
    rows, said = read(
        path, HEAD + "".join(",".join(["1", "2", "3"] * n) + ":" + ",".join(["1"] * 3 * n) + ":a\n" for n in (13, 15))
    )
    assert said == [
        ("end", "the last 7 to 13 steps of each of 2 series are left out: they are fewer than a sample of 16", 0, "step")
    ]
