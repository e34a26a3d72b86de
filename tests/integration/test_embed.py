"""`embed` and `search` on real Ray: the same bits whatever is killed, every row once, and the nearest neighbours."""

from __future__ import annotations

import hashlib
import io
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.command import FOUNDRAY, foundray_here

import foundray as api
from foundray.errors import InputError
from foundray.runs.run import Run
from foundray.testing.runs import run_with_checkpoint
from foundray.testing.specs import IMAGES, SERIES
from foundray.testing.waiting import wait_until

ROWS, MANY = 6_000, 50_000
"""Texts to search, and texts whose embedding lasts long enough to be killed twice; a block has 512 rows."""


pytestmark = pytest.mark.usefixtures("own_ray")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_with_checkpoint(tmp_path_factory.mktemp("runs"), model__context=64, model__depth=1)


@pytest.fixture(scope="module")
def texts(prose: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts"), prose, ROWS)


def write_texts(folder: Path, prose: Path, count: int) -> Path:
    """Short, distinct texts of real words, one per line, none longer than a sample."""
    words = np.array(sorted({word for word in prose.read_text().split() if word.isalpha() and 2 < len(word) < 13}))
    drawn = np.random.default_rng(0).integers(0, len(words), (count, 4))
    path = folder / "texts.txt"
    path.write_text("\n".join(f"{number} {' '.join(words[row])}" for number, row in enumerate(drawn)))
    return path


@pytest.fixture(scope="module")
def calm(run: Run, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embed_calmly(run, texts, tmp_path_factory.mktemp("calm") / "out", ROWS)


def embed_calmly(run: Run, texts: Path, out: Path, rows: int) -> Path:
    """Vectors made by one undisturbed worker."""
    made = api.embed(run.folder.url, texts, out, {"documents": "line"}, workers=1)
    assert (made.rows, made.new_rows, made.bad_rows, made.width) == (rows, rows, 0, 32)
    return out


def contents(out: Path) -> tuple[list[str], str]:
    """(sorted ids, SHA-256 of the ids and their vectors in that order)."""
    tables = [pq.read_table(file, columns=["id", "vector"]) for file in (out / "shards").glob("*.parquet")]
    ids = np.array([id for table in tables for id in table["id"].to_pylist()])
    vectors = np.concatenate([np.stack(table["vector"].to_numpy()) for table in tables])
    order, sha = np.argsort(ids), hashlib.sha256()
    for row in order:
        sha.update(ids[row].encode())
        sha.update(vectors[row].tobytes())
    return ids[order].tolist(), sha.hexdigest()


def wait_for_blocks(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    wait_until(lambda: len(list(out.glob("shards/*.parquet"))) >= count, 600, f"{count} blocks", process)


@pytest.mark.thorough
def test_a_lost_worker_and_a_lost_command_change_no_bit(run: Run, prose: Path, tmp_path: Path) -> None:
    texts, out = write_texts(tmp_path, prose, MANY), tmp_path / "out"
    calm = embed_calmly(run, texts, tmp_path / "calm", MANY)
    command = ["embed", run.folder.url, str(texts), str(out), "--set", "documents=line", "--workers", "2", "--json"]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen([FOUNDRAY, *command], stdout=said, stderr=subprocess.STDOUT, text=True)
        wait_for_blocks(out, 10, process)
        children = psutil.Process(process.pid).children(recursive=True)
        workers = [child for child in children if child.name().startswith("ray::MapWorker")]
        assert len(workers) == 2
        workers[0].kill()
        lost = "embed: a worker was lost"  # and another has begun to do its blocks
        wait_until(lambda: lost in (tmp_path / "said").read_text(), 600, lost, process)
        process.kill()
        process.wait()
    refused = foundray_here("search", out, "text").refusal
    assert "is not complete" in refused and f"foundray embed {run.folder.url} {texts} {out}" in refused
    stamps = {file: file.stat().st_mtime_ns for file in (out / "shards").glob("*.parquet")}
    done = foundray_here(*command)
    assert (done.facts["rows"], done.facts["workers"]) == (MANY, 2)
    assert done.facts["new_rows"] < MANY, "what was done was not done again"
    assert "embed: continuing in" in done.out and done.err == ""
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps
    ids, sha = contents(out)
    assert ids == sorted(f"{texts}#{number}" for number in range(MANY)), "every row once"
    assert (ids, sha) == contents(calm)
    assert (out / "index.safetensors").read_bytes() == (calm / "index.safetensors").read_bytes()


def test_search_finds_what_is_near(run: Run, texts: Path, calm: Path) -> None:
    lines = texts.read_text().splitlines()
    found = foundray_here("search", calm, "--like", f"{texts}#4321", "--top", "3", "--json").facts
    assert (found[0]["id"], found[0]["score"], found[0]["text"]) == (f"{texts}#4321", 0.0, lines[4321])
    assert (found[0]["source"], found[0]["position"], len(found)) == (str(texts), "document 4321", 3)
    (first, *others) = api.search(calm, lines[77], top=5)
    assert (first.id, first.text) == (f"{texts}#77", lines[77]) and first.score < 0.1 * others[0].score
    assert [hit.score for hit in others] == sorted(hit.score for hit in others)
    nearly = api.search(calm, lines[77] + "s", top=1)[0]
    assert nearly.id == f"{texts}#77"
    with pytest.raises(InputError, match="no row has this id; ids look like"):
        api.search(calm, like="x#1")


def test_vectors_of_another_model_are_not_searched(run: Run, texts: Path, calm: Path, tmp_path: Path) -> None:
    other = run_with_checkpoint(tmp_path / "runs", model__context=64, model__depth=1, seed=9)
    said = foundray_here("search", calm, "text", "--run", other.folder).refusal
    assert "the vectors were made by other weights" in said
    again = api.embed(run.folder.url, texts, calm, {"documents": "line"})
    assert (again.rows, again.new_rows, again.workers) == (ROWS, 0, 0), "done already"
    for change, what in (
        (("--pool", "last"), "pool was mean and is last"),
        (("--set", "documents=file"), "source.documents was line and is file"),
        (("--normalise",), "normalise was False and is True"),
    ):
        flags = ("--set", "documents=line", *change)
        assert what in foundray_here("embed", run.folder, texts, calm, *flags).refusal
    (index := calm / "index.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"is damaged: its SHA-256 .* delete it, and `foundray embed` again"):
        api.search(calm, like=f"{texts}#1")
    index.unlink()
    assert api.embed(run.folder.url, texts, calm, {"documents": "line"}).workers == 0, "only the index is made again"
    assert api.search(calm, like=f"{texts}#1", top=1)[0].id == f"{texts}#1"


def pictures(folder: Path) -> Path:
    (made := folder / "images").mkdir()
    for number in range(30):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8)).astype(np.uint8)
        Image.fromarray(pixels).save(file := io.BytesIO(), "png")
        (made / f"{number:03d}.png").write_bytes(file.getvalue()[: -40 if number == 7 else None])
    return made


def series(folder: Path) -> Path:
    waves = np.random.default_rng(0).standard_normal((160, 2)).cumsum(0)
    (path := folder / "series.csv").write_text("a,b\n" + "\n".join(f"{a:.5f},{b:.5f}" for a, b in waves))
    return path


@pytest.mark.parametrize(
    ("changes", "make", "bad"),
    [(IMAGES, pictures, 1), pytest.param(SERIES, series, 0, marks=pytest.mark.thorough)],
)
def test_values_are_embedded_and_found(changes: dict[str, Any], make: Any, bad: int, tmp_path: Path) -> None:
    run, data, out = run_with_checkpoint(tmp_path / "runs", **changes), make(tmp_path), tmp_path / "out"
    made = api.embed(run.folder.url, data, out, normalise=True, layer=1, pool="mean_std", workers=1)
    assert (made.bad_rows, made.metric, made.width) == (bad, "cosine", 64)
    assert len((out / "bad_rows.jsonl").read_text().splitlines()) == bad
    table = pq.read_table(out / "shards")
    assert table.column_names == ["id", "vector", "source", "position"]
    assert table.schema.field("vector").type.list_size == 64
    assert made.rows == len(table) == len(set(table["id"].to_pylist())) > 5
    last = table["id"][-1].as_py()
    assert api.search(out, like=last, top=1)[0].id == last
    query = data / "012.png" if data.is_dir() else data
    (hit,) = api.search(out, str(query), top=1)
    assert hit.score == pytest.approx(1, abs=1e-5) and hit.source == str(query) and hit.text is None
    with pytest.raises(InputError, match="does not exist"):
        api.search(out, "a text")


def test_too_many_bad_rows_and_no_room(run: Run, tmp_path: Path) -> None:
    (bad := tmp_path / "bad.txt").write_bytes(b"good\n\xff\n\xff\n")
    flags = {"overrides": {"documents": "line"}, "workers": 1}
    with pytest.raises(InputError, match=r"more than --max-bad-rows of 1: .*line 2.*raise --max-bad-rows"):
        api.embed(run.folder.url, bad, tmp_path / "out", **flags, pool="last", max_bad_rows=1)
    assert [line.position for line in api.quarantine(tmp_path / "out").lines] == ["line 2", "line 3"]
    with pytest.raises(InputError, match="no node has 3 CPU for a worker"):
        api.embed(run.folder.url, bad, tmp_path / "other", {"documents": "line"}, resources={"CPU": 3})


@pytest.mark.thorough
def test_too_large_a_share_of_bad_rows(run: Run, tmp_path: Path) -> None:
    """What an earlier command read counts, too."""
    (bad := tmp_path / "bad.txt").write_bytes(b"good\n\xff\n\xff\n")
    flags = {"overrides": {"documents": "line"}, "workers": 1}
    with pytest.raises(InputError, match=r"more than --max-bad-rows of 1: .*line 2.*raise --max-bad-rows"):
        api.embed(run.folder.url, bad, tmp_path / "out", **flags, pool="last", max_bad_rows=1)
    assert [line.position for line in api.quarantine(tmp_path / "out").lines] == ["line 2", "line 3"]
    with pytest.raises(InputError, match=r"2 \w+ of .* and 1 can, a larger share than --max-bad-share of 0\.5"):
        api.embed(run.folder.url, bad, tmp_path / "out", **flags, max_bad_rows=2)
    made = api.embed(run.folder.url, bad, tmp_path / "out", **flags, max_bad_rows=2, max_bad_share=0.9)
    assert (made.rows, made.bad_rows, sum(made.lost.values())) == (1, 2, 2)
    (bad := tmp_path / "none.txt").write_bytes(b"\xff\n")
    with pytest.raises(InputError, match=r"1 \w+ of .* cannot be used and none can: not UTF-8"):
        api.embed(run.folder.url, bad, tmp_path / "third", **flags)
