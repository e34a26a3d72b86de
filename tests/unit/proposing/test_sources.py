"""`foundray init` on text of several kinds, and on odd or hostile files: the spec reads what was found, and nothing else."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pandas as pd
import pytest
import yaml

from foundray.cli import _run
from foundray.data.files.files import find_files
from foundray.data.prepare.sources import BadRow, read_documents
from foundray.errors import InputError
from foundray.proposing.kinds import sort
from foundray.proposing.machine import Machine
from foundray.proposing.page import page
from foundray.proposing.parts import paths_of
from foundray.proposing.proposal import propose
from foundray.spec import Spec
from foundray.spec.loading import parse_spec

PROSE = "The ship left the harbour at dawn, and nobody on the quay waved; the café was still closed."


def proposed(place: Path | str) -> tuple[Spec, str]:
    """The spec that is proposed, and the comments above it."""
    found = propose(str(place), sort(str(place)), 5, lambda: Machine(4, 0, 1e11, "4 cores"), lambda line: None)
    text = page("mine", str(place), found)
    spec = parse_spec(text, "proposed")
    assert set(yaml.safe_load(text)) == {
        "name", "seed", "data", "objective", "model", "optimizer", "schedule", "train", "storage"
    }, "nothing that was found became a field"  # fmt: skip
    return spec, text.partition("\n\n")[0]


def documents(spec: Spec) -> list[int]:
    """How many documents each source has. None may be bad."""
    counts = []
    for source in spec.data.sources:
        rows = [row for file in find_files(source) for row in read_documents(file, source)]
        assert not any(isinstance(row, BadRow) and row.lost for row in rows)
        counts.append(len(rows))
    return counts


def lines(path: Path, field: str, count: int) -> None:
    path.write_text("".join(json.dumps({field: f"{number}. {PROSE}"}) + "\n" for number in range(count)))


def test_an_empty_file_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").touch()
    (tmp_path / "a.py").write_text("answer = 42\n" * 900)
    assert proposed(tmp_path)[0].data.sources[0].path == str(tmp_path)


def test_a_note_beside_the_data_is_no_source(tmp_path: Path) -> None:
    lines(tmp_path / "x.jsonl", "text", 900)
    (tmp_path / "README.md").write_text("These are the texts.\n")
    spec, found = proposed(tmp_path)
    assert documents(spec) == [900] and "README.md, 21 B, which is too little for a source" in found


def test_files_with_another_field_are_another_source(tmp_path: Path) -> None:
    for name, field, count in (("a", "text", 300), ("b", "content", 200), ("c", "content", 100)):
        lines(tmp_path / f"{name}.jsonl", field, count)
    spec, _ = proposed(tmp_path)
    assert {source.field: count for source, count in zip(spec.data.sources, documents(spec), strict=True)} == {
        "text": 300, "content": 300
    }  # fmt: skip


def test_a_folder_named_like_a_glob_and_a_glob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / "brk[1]").mkdir()
    for number in range(3):
        lines(folder / f"{number}.jsonl", "text", 100)
        (folder / f"{number}.txt").write_text(PROSE * 90)
    for place in (folder, f"{folder}/*", f"{folder}/**"):
        assert documents(proposed(place)[0]) == [3, 300]
    assert documents(proposed(f"{folder}/[01].*")[0]) == [1, 1, 100, 100], "a glob that cannot be narrowed: each file by itself"
    monkeypatch.chdir(tmp_path)
    assert _run(["init", "brk[1]", "--minutes", "0.2"]) == 0
    assert yaml.safe_load((tmp_path / "brk-1.yaml").read_text())["name"] == "brk-1"


def test_files_that_no_glob_gives_alone(tmp_path: Path) -> None:
    """One ending, and names that stand for others in a glob: each file is a source, up to some."""
    for number in range(20):
        (tmp_path / f"{number}*.txt").write_text(PROSE)
    files = sort(str(tmp_path))[0].files
    assert [path for path, _ in paths_of(str(tmp_path), files[:2], files)] == [file.url for file in files[:2]]
    assert sum(len(some) for _, some in paths_of(str(tmp_path), files[:15], files)) == 12


def test_a_sample_that_ends_inside_a_row_or_member_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    text = f"{PROSE}\nsecond, line\nthird, line"
    pd.DataFrame({"id": range(3000), "body": [text] * 3000}).to_csv(tmp_path / "csv" / "a.csv", index=False)
    (tmp_path / "tar").mkdir()
    with tarfile.open(tmp_path / "tar" / "a.tar", "w") as archive:
        for number in range(3):
            (header := tarfile.TarInfo(f"{number}.txt")).size = len(content := (PROSE * 20_000).encode())
            archive.addfile(header, io.BytesIO(content))
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "a.jsonl").write_text((json.dumps({"text": PROSE * 3000}) + "\n") * 3)
    for kind, count in (("csv", 3000), ("tar", 3), ("json", 3)):
        spec, found = proposed(tmp_path / kind)
        assert documents(spec) == [count] and "can be read" not in found


@pytest.mark.parametrize("name", ["Power\nfault: {wait_s: 7}", "Po\x1b[31mwer\x07", "Flow\u2028x: 1", "\ufeff\u202eP"])
def test_the_names_of_columns_stay_comments(name: str, tmp_path: Path) -> None:
    table = pd.DataFrame(
        {name: [number % 7 + 0.5 for number in range(5000)], "b": [number % 5 + 0.5 for number in range(5000)]}
    )
    (place := tmp_path / "x\ntrackers: [wandb]").mkdir()
    table.to_csv(place / "a.csv", index=False)
    _, found = proposed(place)
    assert all(line.startswith("#") and line.isprintable() for line in found.splitlines())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b"[" * 100_000 + b"\n"),
        ("t10k-images-idx3-ubyte", b"hello" * 99),
        ("t10k-images-idx3-ubyte", b"\x1f\x8b\x08"),
    ],
)
def test_files_that_are_not_what_they_seem(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"no column or field of its files holds text|none of 1 picture can be read"):
        proposed(tmp_path)


def test_commands_that_are_printed_can_be_pasted_and_show_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my data").mkdir()
    pd.DataFrame({"a": [number % 7 + 0.5 for number in range(20_000)]}).to_csv("my data/a.csv", index=False)
    assert _run(["init", "my data", "--out", "my spec.yaml", "--minutes", "0.2"]) == 0
    shown = capsys.readouterr().out
    assert "foundray train 'my spec.yaml'" in shown and "foundray embed my-data 'my data' vectors" in shown
    assert _run(["init", "s3://key:secretpw@bucket/x"]) == 2
    output = capsys.readouterr()
    assert "holds a secret" in output.err and "secretpw" not in output.out + output.err
    assert _run(["init", ""]) == 2 and "DATA is empty" in capsys.readouterr().err
