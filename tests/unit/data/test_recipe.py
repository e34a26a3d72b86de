"""The name of prepared data depends on the files and how they are read, not on the spelling of a path; older data is found."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from foundray.data.files.files import RawFile
from foundray.data.prepare import recipe as recipes
from foundray.data.prepare.manifest import Manifest
from foundray.data.prepare.prepare import prepare
from foundray.data.prepare.recipe import changes, formats_of, prepared_folder
from foundray.data.tokenizers.tokenizer import make_bytes
from foundray.runs.run import Run
from foundray.spec import Spec, digest
from foundray.spec.loading import parse_spec
from foundray.storage import Store
from foundray.testing.specs import small_spec

NOON = 1_700_000_000_123_456_789
"""Modification time of every file here, in ns."""


def spec_of(storage: Path, *sources: dict[str, Any], **changes: Any) -> Spec:
    return parse_spec(yaml.safe_dump(small_spec(storage, storage / "runs", data__sources=list(sources), **changes)), "test")


def folder(storage: Path, *sources: dict[str, Any], **changes: Any) -> str:
    return prepared_folder(spec_of(storage, *sources, **changes))[0].name


def write(path: Path, content: str = "some text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, ns=(NOON, NOON))
    return path


def test_however_a_path_is_written_the_data_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.txt", "b c.txt", "d.txt"):
        write(tmp_path / "real" / name)
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    paths = ("real/b c.txt", "./real/b c.txt", "link/b c.txt", f"{tmp_path}/real/b c.txt", f"{tmp_path}/link/../real/b c.txt")
    urls = (f"file://{tmp_path}/real/b%20c.txt", f"file://{tmp_path}/link/b c.txt")
    one = {folder(tmp_path, {"path": path}) for path in (*paths, *urls, "real/b*.txt")}
    assert len(one) == 1
    folders = ("real", "link/", "real/*", "**/*.txt", "{real,none}/*", f"file://{tmp_path}/real")
    every = {folder(tmp_path, {"path": path}) for path in folders}
    assert len(every) == 1
    assert one != every
    assert {folder(tmp_path, {"path": "real", "format": form}) for form in ("auto", "text")} == every
    assert folder(tmp_path, {"path": "real", "licence": "CC0-1.0", "weight": 2}) in every


def test_what_is_read_otherwise_is_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "in/a.jsonl", '{"text": "x"}')
    source = {"path": str(path)}
    found = {
        "as its name says": folder(tmp_path, source),
        "as prose": folder(tmp_path, {**source, "format": "text"}),
        "another field": folder(tmp_path, {**source, "field": "body"}),
        "a longer sample": folder(tmp_path, source, model__context=64),
        "another tokenizer": folder(tmp_path, source, data__tokenizer={"kind": "char"}),
    }
    assert folder(tmp_path, {**source, "format": "jsonl"}) == found["as its name says"]
    os.utime(path, ns=(NOON, NOON + 1))
    found["changed"] = folder(tmp_path, source)
    path.with_suffix(".JSONL.gz").symlink_to(path.name)  # the same bytes, which are read as compressed by this name
    found["by another name"] = folder(tmp_path, {"path": str(path.with_suffix(".JSONL.gz")), "format": "jsonl"})
    monkeypatch.setattr(recipes, "READING", 3)
    found["by other readers"] = folder(tmp_path, source)
    assert len(set(found.values())) == len(found)


def test_the_order_of_files_counts_if_it_is_not_that_of_their_names(tmp_path: Path) -> None:
    for name in ("1", "2"):
        write(tmp_path / f"real/{name}.txt", name)
        (tmp_path / "crossed").mkdir(exist_ok=True)
        (tmp_path / f"crossed/{3 - int(name)}.txt").symlink_to(f"../real/{name}.txt")
    plain, crossed = (spec_of(tmp_path, {"path": str(tmp_path / name)}) for name in ("real", "crossed"))
    assert prepared_folder(plain)[0] != prepared_folder(crossed)[0]
    (tmp_path / "real/3.txt").symlink_to("2.txt")
    (unit,) = prepared_folder(plain)[2]
    assert len(unit.files) == 3, "a link to a file is a file"


def before(spec: Spec, path: str, form: str, file: Path, **fields: Any) -> dict[str, Any]:
    """The recipe of earlier versions, with paths and formats as written in the spec."""
    stat = file.stat()
    source = {"path": path, "format": form, "field": "text", "documents": "file", **fields}
    tokenizer = {"kind": "bytes", "vocab_size": None, "document_token": None, "sample_bytes": 64 * 2**20}
    return {
        "context": spec.model.context,
        "tokenizer": tokenizer,
        "sources": [{**source, "files": {str(file): [stat.st_size, stat.st_mtime_ns]}}],
    }


@pytest.mark.parametrize(
    ("tokenizer", "known"),
    [
        ({"kind": "bytes"}, "7de78d22cd1dd07f90a4993e5c36bbbe6ca3ee64127c1070633d4d00a57af83d"),
        ({"kind": "bpe", "vocab_size": 300}, "9290a2e964bbc6c18651cc1fff292215340049258de6e977e9e95643bc7db8da"),
    ],
)
def test_the_recipe_before_is_as_it_was(tokenizer: dict[str, Any], known: str, tmp_path: Path) -> None:
    """The earlier version's hash."""
    spec = spec_of(tmp_path, {"path": "/data/a.txt"}, data__tokenizer=tokenizer)
    assert digest(next(recipes._earlier_recipes(spec, [[RawFile("/data/a.txt", 9, NOON)]]))) == known


@pytest.mark.parametrize(("written", "then", "now"), [
    ("in/a.txt", "text", {}), ("in/a.txt", "text", {"format": "text"}), ("./in/*.txt", "text", {}), ("in/a.jsonl", "jsonl", {}),
    ("in/a.jsonl", "text", {"format": "text"}), ("in/a.py", "code", {}), ("in/a.py", "text", {}), ("absolute", "text", {}),
])  # fmt: skip
def test_data_prepared_before_is_found_and_used(
    written: str, then: str, now: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = "in/a.txt" if written == "absolute" else written
    file = write(tmp_path / path.removeprefix("./").replace("*", "a"))
    spec = spec_of(tmp_path, {"path": path, **now})
    recipe = before(spec, str(file) if written == "absolute" else path, then, file)
    old = tmp_path / "runs/prepared" / digest(recipe)[:16]
    assert prepared_folder(spec)[0].path != str(old)
    old.mkdir(parents=True)
    assert prepared_folder(spec)[:2] == (Store.at(old), recipe), "also if it has only begun"
    manifest = Manifest(
        name="small", recipe=recipe, recipe_sha256=digest(recipe), context=32, vocabulary=257, document_id=0,
        tokenizer_sha256="", rows=0, tokens=0, quarantined=0, rows_per_group=8, shards=[],
    )  # fmt: skip
    (old / "manifest.json").write_text(manifest.model_dump_json())
    (old / "tokenizer.json").write_text(make_bytes().to_json())
    said: list[str] = []
    assert prepare(spec, said.append).folder.path == str(old)
    assert said[-1].endswith(f"already prepared in {old}")


def test_data_that_would_be_read_otherwise_now_is_prepared_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path / "in/a.jsonl", '{"text": "x"}')
    spec = spec_of(tmp_path, {"path": "in/a.jsonl"})
    prose = before(spec, "in/a.jsonl", "text", file)
    (tmp_path / "runs/prepared" / digest(prose)[:16]).mkdir(parents=True)
    assert prepared_folder(spec)[1] != prose, "as prose it was read when nothing was said of its format"
    assert changes(prose, prepared_folder(spec)[1]) == ["sources.0.format was text and is jsonl"]
    image = {"modality": {"kind": "image", "size": 16, "patch": 4}}
    fields = small_spec(tmp_path, tmp_path, objective={"kind": "masked_pixel"}, model__context=16)
    fields["data"] |= image | {"sources": [{"path": str(write(tmp_path / "a.png"))}]}
    values = parse_spec(yaml.safe_dump(fields), "test")
    files = [[*prepared_folder(values)[2][0].files]]
    raised = {"engine": 1, "modality": 2, "objective": 1}
    assert list(recipes._earlier_recipes(values.begun_with({}), files)) != []
    assert list(recipes._earlier_recipes(values.begun_with(raised), files)) == [], "of another arithmetic"


def test_reported_changes_are_those_that_a_person_made(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt")
    spec = spec_of(tmp_path, {"path": str(file)})
    now = prepared_folder(spec)[1]
    assert changes(before(spec, "elsewhere/*.txt", "text", file), now) == ["the same files are read in another way"]
    write(file, "longer text")
    assert changes(now, prepared_folder(spec)[1]) == [f"sources.0.files.{file}.0 was 9 and is 11"]


def test_reports_name_the_formats_that_were_read(tmp_path: Path) -> None:
    write(tmp_path / "in/a.txt")
    write(tmp_path / "in/b.csv", "text\nx\n")
    spec = spec_of(tmp_path, {"path": str(tmp_path / "in")})
    said: list[str] = []
    recipe = prepared_folder(spec, said.append)[1]
    assert formats_of(recipe, 0, spec.data.sources[0]) == "csv and text"
    assert formats_of(json.loads(json.dumps(recipe)), 0, spec.data.sources[0].model_copy(update={"format": "text"})) == "text"
    assert said == [f"data: {tmp_path}/in: read by their endings, 1 csv, 1 text"]


def test_a_run_is_the_same_however_its_data_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in/a.txt")
    (tmp_path / "link").symlink_to("in")
    run = Run.named(spec_of(tmp_path, {"path": f"{tmp_path}/in/a.txt"}))
    Path(run.folder.path).mkdir(parents=True)
    (run.folder / "spec.yaml").write_text(spec_of(tmp_path, {"path": f"{tmp_path}/in/a.txt"}).to_yaml())
    (run.folder / "data.json").write_text("{}")
    for path in ("in/a.txt", "./link/a.txt", f"file://{tmp_path}/in/a.txt"):
        run.check_same(spec_of(tmp_path, {"path": path}))
