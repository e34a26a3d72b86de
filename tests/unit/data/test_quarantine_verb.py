"""`foundray quarantine`: reasons by what they cost, their lines, and one sentence if there is no quarantine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import foundray
from foundray.cli import main
from foundray.data.prepare.limits import Limits
from foundray.data.prepare.recipe import prepared_folder
from foundray.data.prepare.shard import make_shard
from foundray.data.tokenizers.tokenizer import make_bytes
from foundray.errors import InputError
from foundray.spec.loading import load_spec
from foundray.storage import Store
from foundray.testing.runs import run_with_records
from foundray.testing.specs import small_spec


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A spec of two sources, with rows that are lost, empty, and good."""
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n{"body": 1}\n{"body": 2}\n\n{broken\n')
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "fine"}\n\n{"text": "caf\xe9"}\n')
    sources = [{"path": str(tmp_path / name), "format": "jsonl"} for name in ("a.jsonl", "b.jsonl")]
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(small_spec(tmp_path, tmp_path / "runs", data__sources=sources)))
    return path


def read_all(spec: Path, max_bad_rows: int = 100) -> Store:
    """The folder of a preparation of all units, before its manifest is written."""
    checked = load_spec(spec)
    folder, _, units = prepared_folder(checked)
    for unit in units:
        make_shard(folder.url, unit, checked.data.sources[unit.source], make_bytes(), 32, Limits(max_bad_rows, 1.0))
    return folder


def run_verb(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit status, output, errors) of `foundray quarantine`."""
    status = 0
    try:
        main(["quarantine", *map(str, arguments)])
    except SystemExit as end:
        status = int(end.code or 0)
    return status, *capsys.readouterr()


def test_reasons_by_their_cost_and_then_the_lines(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = read_all(spec)
    status, out, _ = run_verb(capsys, spec)
    assert status == 0
    first, blank, *lines = out.splitlines()
    assert first == f"{folder}: 4 rows quarantined so far, 2 empty" and blank == ""
    assert lines[0].startswith("2 rows  no field 'text'")
    assert lines[1].startswith(" 1 row  not JSON: ")
    assert lines[2].startswith(" 1 row  not UTF-8")
    where = spec.parent
    assert [line.partition(": ")[0] for line in lines[4:]] == [
        f"{where}/a.jsonl, line 2", f"{where}/a.jsonl, line 3", f"{where}/a.jsonl, line 5", f"{where}/b.jsonl, line 3",
    ]  # fmt: skip
    assert all(line.endswith(" (1 row)") for line in lines[4:])


def test_fewer_lines_one_source_and_json(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = read_all(spec)
    _, out, _ = run_verb(capsys, folder, "--limit", 1)
    assert out.splitlines()[-2].startswith(f"{spec.parent}/a.jsonl, line 2: ")
    assert out.splitlines()[-1] == "and 3 more lines: --limit 4 shows all"
    _, out, _ = run_verb(capsys, folder, "--limit", 0)
    assert out.splitlines()[-1] == "and 4 more lines: --limit 4 shows all"
    _, out, _ = run_verb(capsys, folder, "--source", 1, "--json")
    shown = json.loads(out.splitlines()[-1])
    assert (shown["folder"], shown["complete"]) == (folder.url, False)
    assert (shown["quarantined"], shown["lost"], shown["documents"], shown["empty"], shown["notes"]) == (1, {"row": 1}, 1, 1, 0)
    assert [(line["position"], line["lost"], line["unit"]) for line in shown["lines"]] == [("line 3", 1, "row")]
    assert [reason["lost"] for reason in shown["reasons"]] == [1]
    assert shown["lines_in_all"] == 1


def test_where_a_preparation_stopped_at_its_limit_the_list_is_there(spec: Path) -> None:
    with pytest.raises(InputError, match="more than data"):
        read_all(spec, 1)
    found = foundray.quarantine(spec)
    assert not found.complete
    assert found.balance.lost == {"row": 2}
    assert [line.position for line in found.lines] == ["line 2", "line 3"]


def test_nothing_quarantined_is_one_line(tmp_path: Path, spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n\n')
    (tmp_path / "b.jsonl").write_text('{"text": "fine"}')
    folder = read_all(spec)
    assert run_verb(capsys, spec)[:2] == (0, f"{folder}: nothing is quarantined so far (1 empty)\n")


def test_a_run_by_its_folder_and_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_with_records(tmp_path / "runs", name="small")
    folder = tmp_path / "runs" / "prepared" / "0"
    folder.mkdir(parents=True)
    recorded: dict[str, Any] = json.loads((run.folder / "data.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(recorded["manifest"]))
    old = [{"source": "x", "position": f"line {n}", "reason": "not JSON"} for n in (3, 9)]
    (folder / "quarantine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    monkeypatch.chdir(tmp_path)
    for name in (run.folder.url, "small", folder, folder / "quarantine.jsonl"):
        status, out, _ = run_verb(capsys, name)
        assert (status, out.splitlines()[0]) == (0, f"{folder}: 2 rows quarantined")
        assert "x, line 9: not JSON (1 row)" in out


def test_vectors_are_looked_into_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = {"source": "/x/a.txt", "position": "byte 0", "reason": "not UTF-8 (byte 0xff)"}
    for name in ("parts", "quarantine"):
        (tmp_path / name).mkdir()
    (tmp_path / "embedding.json").write_text("{}")
    (tmp_path / "parts/00000.json").write_text(json.dumps({"blocks": 1, "rows": 3, "bad": [line]}))
    (tmp_path / "quarantine/00001.jsonl").write_text(json.dumps({**line, "lost": 5, "unit": "member"}) + "\n")
    _, out, _ = run_verb(capsys, tmp_path)
    assert out.splitlines()[0] == f"{tmp_path}: 5 members and 1 row quarantined so far"


def test_anything_else_is_refused_with_one_sentence(tmp_path: Path, spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, said in (
        ([tmp_path / "nowhere"], "nowhere is neither a run (its folder, or its name in runs/), nor a spec file, nor"),
        ([tmp_path / "empty"], "empty is neither a run"),
        ([tmp_path / "b.jsonl"], "is not UTF-8 text"),
        ([spec], "nothing of the data of"),
        ([spec, "--limit", "-1"], "--limit -1: it must be 0 or more"),
        ([tmp_path / "empty", "--set", "seed=1"], "--set seed: it overrides a field of a spec"),
    ):
        status, out, err = run_verb(capsys, *arguments)
        assert (status, out, len(err.splitlines())) == (2, "", 1)
        assert said in err
    folder = read_all(spec)
    status, _, err = run_verb(capsys, folder, "--source", 2)
    assert (status, err) == (2, "foundray: --source 2: sources count from 0, and these were read so far: 0, 1\n")
    (folder / "quarantine/0-00000.jsonl").write_bytes(b'{"source": 1')
    assert "line 1 is damaged" in run_verb(capsys, folder)[2]


def test_the_help_lists_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "quarantine" in capsys.readouterr().out
