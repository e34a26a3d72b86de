"""Vectors: formats, blocks, indexes, and refusals before Ray starts."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors import torch as safetensors
from tests.unit.files import picture

import foundray
from foundray.contract import Units
from foundray.data.files.files import RawFile
from foundray.data.prepare.limits import Limits
from foundray.data.prepare.quarantine import Line
from foundray.data.prepare.reader import Reader, Row
from foundray.data.prepare.sources import BadRow
from foundray.data.tokenizers.tokenizer import make_bytes
from foundray.errors import InputError, RunFailed
from foundray.evaluation.encoder import Encoder, features, trained_weights
from foundray.runs.run import Run
from foundray.spec import SourceConfig
from foundray.storage import Store
from foundray.testing.runs import run_with_checkpoint
from foundray.testing.specs import IMAGES, SERIES
from foundray.vectors import blocks, index
from foundray.vectors.blocks import Record, check_all, parts, read_blocks
from foundray.vectors.embed import Options
from foundray.vectors.index import Index
from foundray.vectors.kinds import source_of
from foundray.vectors.shards import finish
from foundray.vectors.task import prepared, weights_for
from foundray.vectors.worker import BlockWriter, Embedder, Task

LINES = SourceConfig(path="x", format="text", documents="line")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of bytes, with a context of 32."""
    return run_with_checkpoint(tmp_path / "runs")


def lines(folder: Path, *texts: str, name: str = "a.txt") -> Path:
    (path := folder / name).write_text("\n".join(texts))
    return path


def read(path: Path, reader: Reader, folder: Path, done: tuple[str, ...] = (), limit: int = 0) -> list[dict[str, Any]]:
    """The blocks of a file's lines, as sent to workers."""
    source = LINES.model_copy(update={"path": str(path)})
    (part,) = parts(reader.files(source))
    limits = Limits(limit, 1.0, "--max-bad-rows", "--max-bad-share")
    return list(read_blocks(part, reader, source, done, limits, str(folder), "cpu"))


def table(block: dict[str, Any]) -> pa.Table:
    return pa.ipc.open_stream(block["table"]).read_all()


# Formats


def test_a_format_follows_from_extensions_and_the_run(tmp_path: Path) -> None:
    run = run_with_checkpoint(tmp_path / "runs", data__sources=[{"path": "x", "format": "jsonl", "field": "body"}])
    (tmp_path / "a.jsonl.gz").touch()
    own = source_of(str(tmp_path / "a.jsonl.gz"), run.spec(), {})
    assert (own.format, own.field) == ("jsonl", "body"), "as the run's own source of that format"
    assert source_of(str(tmp_path / "a.jsonl.gz"), run.spec(), {"field": "text"}).field == "text"
    for name, form in {"b.csv": "csv", "c.md": "text", "d.py": "code", "e.tar": "webdataset", "g.fna": "fasta"}.items():
        (tmp_path / name).touch()
        assert source_of(str(tmp_path / name), run.spec(), {}).format == form
    assert source_of(str(tmp_path / "*.*"), run.spec(), {}).format == "auto", "each file by its own extension"
    assert source_of(str(tmp_path / "*.*"), run.spec(), {"format": "csv"}).format == "csv"
    with pytest.raises(InputError, match="did you mean 'format'"):
        source_of(str(tmp_path / "b.csv"), run.spec(), {"fromat": "csv"})


def test_data_of_another_kind_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(picture(200, True))
    with pytest.raises(InputError, match=r"1\.png is of the modality image, and small was trained on text"):
        foundray.embed(run.folder.url, tmp_path / "1.png", tmp_path / "out")
    images = run_with_checkpoint(tmp_path / "images", **IMAGES)
    with pytest.raises(InputError, match=r"small was trained on image, read from \.png, .* and here is a\.txt"):
        foundray.embed(images.folder.url, lines(tmp_path, "some text"), tmp_path / "out")
    with pytest.raises(InputError, match="the run's data is read from files, or webdataset, not from text"):
        foundray.embed(images.folder.url, tmp_path / "1.png", tmp_path / "out", {"format": "text"})
    assert not (tmp_path / "out").exists()


# Blocks


def test_rows_have_names_of_their_own_and_long_documents_are_pieces(run: Run, tmp_path: Path) -> None:
    long = "".join(chr(97 + n % 26) for n in range(70)) + "é" * 9  # é is two bytes, and may lie across pieces
    rows = list(Reader(run).read(SourceConfig(path=str(lines(tmp_path, "one", "", long, "two")), documents="line")))
    assert not any(isinstance(row, BadRow) for row in rows)
    url = str(tmp_path / "a.txt")
    assert [row.id for row in rows] == [f"{url}#0", f"{url}#1.0", f"{url}#1.1", f"{url}#1.2", f"{url}#2"]  # type: ignore[union-attr]
    assert "".join(row.text for row in rows[1:4]) == long  # type: ignore[union-attr, misc]
    assert [len(row.content) for row in rows] == [4, 32, 32, 27, 4]  # type: ignore[union-attr]
    assert rows[2].place == "document 1, piece 1"  # type: ignore[union-attr]


def test_a_pickled_tokenizer_is_the_same() -> None:
    there = pickle.loads(pickle.dumps(make_bytes()))
    assert there.encode(["<|document|>"])[0].tolist() == make_bytes().encode(["<|document|>"])[0].tolist()
    assert len(there.encode(["<|document|>"])[0]) == 12, "text that spells a special token is not one"


def test_blocks_are_cut_by_the_files_alone(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 4)
    monkeypatch.setattr(blocks, "BATCH_UNITS", {"cpu": 40})
    texts = [f"{'word ' * (n % 5)}{n}" for n in range(10)]
    path, reader = lines(tmp_path, *texts), Reader(run)
    made = read(path, reader, tmp_path / "out")
    assert [block["block"] for block in made] == ["00000-000000", "00000-000001", "00000-000002"]
    assert [text for block in made for text in table(block)["text"].to_pylist()] == texts
    assert [len(block["order"]) for block in made] == [4, 4, 2]
    assert made == read(path, reader, tmp_path / "out")
    again = read(path, reader, tmp_path / "out", done=("00000-000001",))
    assert again == [made[0], made[2]]
    record = Record.read(Store.at(tmp_path / "out"), parts(reader.files(SourceConfig(path=str(path))))[0])
    assert record == Record(blocks=3, rows=10, bad=[]), "including blocks that were not made again"


def test_vectors_of_batches_equal_those_of_single_rows(run: Run, tmp_path: Path) -> None:
    path, reader = lines(tmp_path, *(f"{'word ' * (n * 7 % 6)}{n}" for n in range(40))), Reader(run)
    task = Task(run.spec(), run.manifest()["vocabulary"], "last", "mean", True, "cpu", 1)
    (block,) = read(path, reader, tmp_path / "out")
    rows = np.concatenate([Embedder(task, trained_weights(run)[1])(batch) for batch in block["batches"]])
    vectors = np.empty_like(rows)
    vectors[block["order"]] = rows
    units = [reader.units(row) for row in reader.read(LINES.model_copy(update={"path": str(path)}))]  # type: ignore[arg-type]
    encoder = Encoder.trained(run)
    alone = np.concatenate([features(encoder, [one], "mean") for one in units])
    assert np.allclose(vectors, alone / np.linalg.norm(alone, axis=1, keepdims=True), atol=1e-5)


def test_bad_rows_are_listed_and_limited(run: Run, tmp_path: Path) -> None:
    (path := tmp_path / "a.txt").write_bytes(b"good\n\xff\xfe\nfine\n\xff")
    (block,) = read(path, Reader(run), tmp_path / "out", limit=2)
    assert table(block)["id"].to_pylist() == [f"{path}#0", f"{path}#2"], "a bad row has its number, too"
    kept = json.loads((tmp_path / "out/parts/00000.json").read_text())
    assert [row["position"] for row in kept["bad"]] == ["line 2", "line 4"]
    shutil.rmtree(tmp_path / "out")
    said = r"2 \w+ of .* cannot be used and 2 can, more than --max-bad-rows of 1: .*a\.txt, line 2.*raise --max-bad-rows"
    with pytest.raises(InputError, match=said):
        read(path, Reader(run), tmp_path / "out", limit=1)
    assert not (tmp_path / "out/parts").exists()
    listed = [json.loads(line) for line in (tmp_path / "out/quarantine/00000.jsonl").read_text().splitlines()]
    assert [(row["position"], row["lost"]) for row in listed] == [("line 2", 1), ("line 4", 1)]


def test_empty_rows_are_counted_but_not_bad_and_older_records_are_read(run: Run, tmp_path: Path) -> None:
    (path := tmp_path / "a.jsonl").write_text('{"text": "good"}\n\n{"text": " "}\n{"text": "fine"}\n')
    reader, source = Reader(run), SourceConfig(path=str(path), format="jsonl")
    (part,) = parts(reader.files(source))
    list(read_blocks(part, reader, source, (), Limits(0, 0.0), str(tmp_path / "out"), "cpu"))
    assert Record.read(Store.at(tmp_path / "out"), part) == Record(blocks=1, rows=2, bad=[], empty=2)
    before = {"blocks": 1, "rows": 3, "bad": [{"source": "/x", "position": "line 2", "reason": "empty"}]}
    (tmp_path / "out/parts/00000.json").write_text(json.dumps(before))
    record = Record.read(Store.at(tmp_path / "out"), part)
    assert record is not None and (record.lost, record.empty) == (1, 0)


def test_the_bad_share_is_checked_once_all_is_read(tmp_path: Path) -> None:
    source, folder = SourceConfig(path="/x"), Store.at(tmp_path)
    limits = Limits(100, 0.5, "--max-bad-rows", "--max-bad-share")
    bad = [Line(source="/x/a", position=f"row {n}", reason="damaged", lost=20, unit="row") for n in range(2)]
    records = [Record(blocks=1, rows=30, bad=bad), Record(blocks=1, rows=20, bad=[])]
    check_all(records[:1], False, limits, source, folder)
    check_all(records, True, limits, source, folder)
    with pytest.raises(InputError, match=r"40 rows of /x .* and 30 can, a larger share than --max-bad-share of 0\.5: damaged"):
        check_all(records[:1], True, limits, source, folder)
    with pytest.raises(InputError, match=r"the source: 40 rows of /x .* more than --max-bad-rows of 39"):
        check_all(records[:1], False, replace(limits, rows=39), source, folder)
    with pytest.raises(InputError, match="no usable document in /x: it is empty"):
        check_all([Record(blocks=0, rows=0, bad=[])], True, limits, source, folder)


def test_an_error_in_reading_or_decoding_names_the_row(run: Run, tmp_path: Path) -> None:
    """For any error, from the tokenizer or a modality."""
    path, reader = lines(tmp_path, "good", "fine"), Reader(run)

    class Breaking(Reader):
        def __init__(self, when: str):
            super().__init__(run)
            self.when = when

        def rows(self, file: RawFile, source: SourceConfig) -> Iterator[Row | BadRow]:
            for number, row in enumerate(reader.rows(file, source)):
                if (self.when, number) == ("reading", 1):
                    raise ValueError("no token for U+0041")
                yield row

        def units(self, row: Row) -> Units:
            raise ValueError("no picture")

    with pytest.raises(RunFailed, match=rf"{path}, after 1 row: ValueError: no token for U\+0041"):
        read(path, Breaking("reading"), tmp_path / "out")
    with pytest.raises(RunFailed, match=rf"{path}, document 0: ValueError: no picture"):
        read(path, Breaking("decoding"), tmp_path / "out")


def test_a_note_does_not_shift_the_ids_of_later_rows(tmp_path: Path) -> None:
    """For example, the note that one of several frames was taken: ids count rows alone."""
    reader = Reader(run_with_checkpoint(tmp_path, **IMAGES))
    frames = [Image.new("L", (8, 8), shade) for shade in (10, 200)]
    (path := tmp_path / "a.gif").write_bytes(b"")
    frames[0].save(path, save_all=True, append_images=frames[1:])
    rows = list(reader.read(SourceConfig(path=str(path), format="files")))
    assert sorted(type(row).__name__ for row in rows) == ["BadRow", "Row"]
    assert [row.id for row in rows if isinstance(row, Row)] == [f"{path}#0"]


def test_an_error_in_computing_vectors_names_the_rows(run: Run, tmp_path: Path) -> None:
    path = lines(tmp_path, "one", "two")
    (block,) = read(path, Reader(run), tmp_path / "out")
    task = Task(run.spec(), run.manifest()["vocabulary"], "last", "mean", False, "cpu", 1)
    worker = BlockWriter(Embedder(task, trained_weights(run)[1]), Store.at(tmp_path / "out"))
    with pytest.raises(RunFailed, match=rf"rows {path}#0 to {path}#1: SafetensorError: "):
        worker({**block, "batches": [b"no batch"], "error": ""})


def test_large_rows_make_small_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(run_with_checkpoint(tmp_path, **SERIES))
    assert blocks.rows_per_block(reader) == 512
    monkeypatch.setattr(blocks, "BLOCK_VALUES", 160)
    assert blocks.rows_per_block(reader) == 10, "of 4 units of 4 values"


# The index


@pytest.mark.parametrize("metric", ["cosine", "distance"])
def test_an_exact_index_finds_what_brute_force_finds(metric: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((500, 16)).astype(np.float32)
    if metric == "cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = vectors[7] + 0.01 * rng.standard_normal(16).astype(np.float32)
    right = vectors @ query if metric == "cosine" else np.linalg.norm(vectors - query, axis=1)
    order = np.argsort(-right if metric == "cosine" else right)[:5]
    built = Index.build(vectors, metric)
    kept = Index.load(file := Store.at(tmp_path / "i.safetensors"), built.save(file))
    for one in (built, kept):
        found = one.nearest(query, 5, metric)
        assert [row for row, _ in found] == order.tolist()
        assert [score for _, score in found] == pytest.approx(right[order].tolist(), abs=1e-3)
    assert len(built.nearest(query, 900, metric)) == 500, "at most all rows"
    (tmp_path / "i.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(InputError, match="is damaged: its SHA-256 is not the recorded one"):
        Index.load(file, "0" * 64)
    for strange in (
        replace(built, rows=built.rows + 1),
        replace(built, starts=np.array([0, 900])),
        replace(built, vectors=vectors[:, 0]),
        replace(built, vectors=vectors.astype(np.float64)),
    ):
        with pytest.raises(InputError, match="is no index: its arrays do not fit each other"):
            Index.load(file, strange.save(file))


def test_a_large_index_probes_the_nearest_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "PROBED", 8)
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((20, 8)) * 5)[rng.integers(0, 20, 4000)] + rng.standard_normal((4000, 8)) * 0.3
    vectors = vectors.astype(np.float32)
    exact, cells = Index.build(vectors, "distance"), Index.build(vectors, "distance", exact_rows=1000)
    assert (exact.cells, cells.cells, cells.probed) == (1, 252, 31)
    assert sorted(cells.rows.tolist()) == list(range(4000))
    shared = [
        len({row for row, _ in exact.nearest(query, 10, "distance")} & {row for row, _ in cells.nearest(query, 10, "distance")})
        for query in vectors[::40]
    ]
    assert np.mean(shared) > 9.5
    assert all(cells.nearest(vectors[row], 1, "distance")[0][0] == row for row in range(0, 4000, 100))


# Refusals


def test_refusals_before_anything_starts(run: Run, tmp_path: Path) -> None:
    text, out = lines(tmp_path, "some text"), tmp_path / "out"

    def refused(match: str, folder: Path = out, **options: Any) -> None:
        with pytest.raises(InputError, match=match):
            foundray.embed(run.folder.url, text, folder, **options)

    refused("--pool max: it must be one of mean, last, mean_std, class", pool="max")
    refused("--pool flatten: it must be one of", pool="flatten")
    refused("pool: class: the run.s model is causal", pool="class")
    refused("layer: the model has 2 layers", layer=3)
    refused("--layer first: it must be last, all, or a number of layers", layer="first")
    refused("--layer -1: it must be last", layer=-1)
    refused("--workers 0: it must be 1 or more", workers=0)
    refused("--max-bad-rows -1: it must be 0 or more", max_bad_rows=-1)
    refused("--max-bad-share 1.5: it must be from 0 to 1", max_bad_share=1.5)
    refused("--resources CPU=0: amounts must be above 0", resources={"CPU": 0})
    refused(r"holds something else \(a\.txt\): vectors go into a folder of their own", folder=tmp_path)
    with pytest.raises(InputError, match="holds no vectors: make them by `foundray embed RUN DATA"):
        foundray.search(out, "text")
    assert not out.exists()
    (run.folder / "checkpoints/step-00000003").delete_folder()
    refused("holds no complete checkpoint yet")


def test_vectors_are_of_one_step_of_one_run(tmp_path: Path) -> None:
    """An embedding continues with the weights of its own step only."""
    from foundray.vectors.recipe import Recipe

    run = run_with_checkpoint(tmp_path / "runs")
    sha = weights_for(run, None)[2]
    began = Recipe(
        run=run.folder.url, step=3, weights_sha256=sha, layer="last", pool="mean", normalise=False, width=32, modality="text",
        source=LINES, files={}, block_rows=512, batch_units=2048, device="cpu", threads=1,
    )  # fmt: skip
    assert weights_for(run, began)[0] == 3
    with pytest.raises(InputError, match="pool was mean and is last; give another folder"):
        began.check_same(run.folder, began.model_copy(update={"pool": "last"}))
    began.check_same(run.folder, began.model_copy(update={"run": "elsewhere"}))
    with pytest.raises(InputError, match=r"files\./a\.txt was not set and is 1,200 bytes of 1\.500; give"):
        began.check_same(run.folder, began.model_copy(update={"files": {"/a.txt": (1200, 1_500_000_000)}}))
    other = run_with_checkpoint(tmp_path / "other", seed=5)
    with pytest.raises(InputError, match=f"made by other weights \\({sha[:16]}…\\) than those of {other.folder} at step 3"):
        weights_for(other, began)
    with pytest.raises(InputError, match=r"made by step 2, but .* no longer has a complete checkpoint of it \(it has 3\)"):
        weights_for(run, began.model_copy(update={"step": 2}))
    assert torch.equal(*(weights["model.norm.weight"] for weights in (weights_for(run, began)[1], weights_for(run, None)[1])))


# Existing folders


def finished(run: Run, path: Path, out: Path) -> None:
    """Make the vectors of a file's lines in a folder, in this process."""
    reader, folder = Reader(run), Store.at(out)
    source = LINES.model_copy(update={"path": str(path)})
    files = reader.files(source)
    task, weights, recipe = prepared(run, reader, source, files, Options(), {"CPU": 1}, None)
    (folder / "embedding.json").write_text(recipe.model_dump_json())
    worker = BlockWriter(Embedder(task, safetensors.load(weights)), folder)
    for block in read(path, reader, out):
        assert worker({**block, "error": ""})["rows"]
    finish(folder, parts(files), recipe, Limits(0, 0.0), lambda line: None)


def test_complete_vectors_are_found_and_missing_or_unknown_ones_are_made_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class RayNeeded(Exception):
        pass

    def connected(*_: object) -> Any:
        raise RayNeeded

    monkeypatch.setattr("foundray.vectors.embed.connected", connected)
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 2)
    path, out = lines(tmp_path, "one", "two", "three"), tmp_path / "out"
    finished(run, path, out)

    def again(**overrides: Any) -> Any:
        return foundray.embed(run.folder.url, path, out, {"documents": "line", **overrides})

    found = again(licence="CC0-1.0")
    assert (found.rows, found.blocks, found.new_rows, found.workers) == (3, 2, 0, 0)
    with pytest.raises(InputError, match="holds vectors of something else"):
        again(documents="paragraph")
    complete = json.loads((out / "complete.json").read_text())
    for strange, said in ((("../../secret", 3), "complete.json is damaged"), (("00000-000000", 9), "is of other vectors")):
        (out / "complete.json").write_text(json.dumps(complete | {"shards": [strange]}))
        with pytest.raises(InputError, match=said):
            foundray.search(out, "one")
    (out / "complete.json").write_text(json.dumps(complete))
    assert foundray.search(out, "two")[0].text == "two"
    (out / "parts/00000.json").write_text("{}")
    with pytest.raises(InputError, match=r"parts/00000\.json is damaged; delete it, and the same `foundray embed`"):
        again()
    (out / "parts/00000.json").unlink()
    with pytest.raises(RayNeeded):
        again()
    finished(run, path, out)
    (out / "shards/00000-000001.parquet").unlink()
    with pytest.raises(RayNeeded):
        again()
    (out / "embedding.json").unlink()
    with pytest.raises(RayNeeded):
        again()
    assert not (out / "shards").exists(), "the weights of the old shards are unknown"


def test_other_libraries_open_the_vectors(run: Run, tmp_path: Path) -> None:
    """As the folder's README.md says."""
    datasets = pytest.importorskip("datasets")
    path, out = tmp_path / "a.txt", tmp_path / "out"
    path.write_text("one text\nanother text\n")
    finished(run, path, out)
    frame = pd.read_parquet(out / "shards")
    rows = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert frame["text"].tolist() == rows["text"][:]
    assert np.array_equal(np.stack(frame["vector"]), np.array(rows["vector"][:], np.float32))
    assert 'pandas.read_parquet("FOLDER/shards")' in (out / "README.md").read_text()
