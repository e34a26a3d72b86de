"""Features, labels, splits and heads of probes, on small runs saved without Ray."""

from __future__ import annotations

import gzip
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.linear_model import Ridge
from tests.unit.files import archive, picture, task_file

import foundray
from foundray.contract import Units, UnitShape
from foundray.errors import InputError
from foundray.evaluation.encoder import Encoder, Reader, batches, counts, features, raw
from foundray.evaluation.probes import load_task
from foundray.evaluation.probes.classify import Examples
from foundray.evaluation.probes.forecast import Forecast, Moments, fitted, standardised, whole_series
from foundray.evaluation.probes.labels import Labels
from foundray.runs.run import Run
from foundray.spec import SourceConfig
from foundray.testing.runs import run_with_checkpoint
from foundray.testing.specs import IMAGES, SERIES

# Features


@pytest.mark.parametrize("kind", ["next_token", "masked_token"])
def test_padding_is_in_no_feature(kind: str, tmp_path: Path) -> None:
    encoder = Encoder.trained(run_with_checkpoint(tmp_path, objective={"kind": kind}))
    rng = np.random.default_rng(0)
    samples = [Units(rng.integers(0, 257, length), None, UnitShape(classes=257)) for length in (5, 20, 11)]
    for pool in ("mean", "last", "mean_std"):
        together = features(encoder, samples, pool)  # type: ignore[arg-type]
        alone = np.concatenate([features(encoder, [one], pool) for one in samples])  # type: ignore[arg-type]
        assert np.allclose(together, alone, atol=1e-5)
    with pytest.raises(InputError, match="flatten needs samples of one length"):
        features(encoder, samples, "flatten")
    assert counts(samples)[1].sum() == pytest.approx(1)


def test_layers_and_all_of_an_image(tmp_path: Path) -> None:
    run = run_with_checkpoint(tmp_path, **IMAGES)
    rng = np.random.default_rng(0)
    (batch,) = batches([Units(rng.standard_normal((4, 16)).astype(np.float32)) for _ in range(3)])
    last = Encoder.trained(run)
    assert last(batch).shape == (3, 4, 32), "nothing is left out"
    assert torch.equal(last.model.model.norm(Encoder.trained(run, 2)(batch)), last(batch))
    stem = last.model.model.embed(batch.x, None) + last.model.model.positions
    assert torch.equal(Encoder.trained(run, 0)(batch), stem)
    assert not torch.equal(Encoder.untrained(run, 5)(batch), last(batch))
    every = Encoder.trained(run, "all")(batch)
    assert torch.equal(every, torch.cat([Encoder.trained(run, 1)(batch), last(batch)], -1))
    with pytest.raises(InputError, match="layer: the model has 2 layers"):
        Encoder.trained(run, 3)
    assert np.array_equal(features(raw, [Units(batch.x[1].numpy())], "flatten")[0], batch.x[1].flatten().numpy())


# Labels


def examples(run: Run, labels: dict[str, Any], path: Path, form: str = "files") -> Examples:
    found = Examples()
    found.add(SourceConfig(path=str(path), format=form), Labels(**labels), Reader(run))  # type: ignore[arg-type]
    return found


def test_labels_in_names_and_beside_images(tmp_path: Path) -> None:
    run = run_with_checkpoint(tmp_path / "runs", **IMAGES)
    for name in ("cats/1.png", "cats/2.png", "dogs/1.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(picture(200, True))
    assert examples(run, {"kind": "name"}, tmp_path / "images").labels == ["cats", "cats", "dogs"]
    path = archive(tmp_path / "a.tar", {f"r/{name}.png": picture(99, True) for name in ("7_ann_0", "3_bob_0")})
    found = examples(run, {"kind": "name", "pattern": r"(?P<label>\d)_(?P<group>[a-z]+)_\d+\.png"}, path, "webdataset")
    assert (found.labels, found.groups) == (["7", "3"], ["ann", "bob"])
    with pytest.raises(InputError, match=r"labels\.pattern: r/7_ann_0\.png does not match"):
        examples(run, {"kind": "name", "pattern": r"(?P<label>x)"}, path, "webdataset")
    images = struct.pack(">HBBIII", 0, 8, 3, 3, 8, 8) + bytes(3 * 64)
    (path := tmp_path / "t-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    beside = tmp_path / "t-labels-idx1-ubyte.gz"
    beside.write_bytes(gzip.compress(struct.pack(">HBBI", 0, 8, 1, 3) + bytes([7, 0, 9])))
    assert examples(run, {"kind": "idx"}, path).labels == ["7", "0", "9"]
    beside.write_bytes(gzip.compress(struct.pack(">HBBI", 0, 8, 1, 9) + bytes([7, 0, 9])))
    with pytest.raises(InputError, match="is not an idx file of labels, or is truncated"):
        examples(run, {"kind": "idx"}, path)


def test_labels_of_cases_and_in_columns(tmp_path: Path) -> None:
    run = run_with_checkpoint(tmp_path / "runs", **SERIES)
    case = ":".join([",".join(map(str, range(16)))] * 2)
    (path := tmp_path / "s.ts").write_text(f"@classLabel true a b\n@data\n{case}:a\n{case}:b\n")
    found = examples(run, {"kind": "case"}, path)
    assert (found.labels, [len(rows) for rows in found.rows]) == (["a", "b"], [2, 2]), "both channels are one example's"
    run = run_with_checkpoint(tmp_path / "text")
    (path := tmp_path / "t.csv").write_text("text,y\none,1\nragged\n,0\ntwo,2\n")
    assert examples(run, {"kind": "column", "column": "y"}, path, "csv").labels == ["1", "2"]
    (path := tmp_path / "t.jsonl").write_text('{"text": "one", "y": 1}\n{broken\n{"text": "two", "y": "b"}\n')
    assert examples(run, {"kind": "column", "column": "y"}, path, "jsonl").labels == ["1", "b"]
    with pytest.raises(InputError, match="document 0 has none"):
        examples(run, {"kind": "column"}, path, "jsonl")


def test_damage_does_not_shift_labels(tmp_path: Path) -> None:
    run = run_with_checkpoint(tmp_path / "text")

    def labels(name: str, content: bytes, form: str) -> list[tuple[str | None, str]]:
        """Each text with its label."""
        (path := tmp_path / name).write_bytes(content)
        found = examples(run, {"kind": "column", "column": "y"}, path, form)
        return [(row.text, label) for (row,), label in zip(found.rows, found.labels, strict=True)]

    right = [("one", "1"), ("six", "6")]
    lines = 'text;y\none;1\n"two;2\n\n;3\nfour\n"fi\nve;5\nsix;6\n'
    assert labels("a.csv", b"\xef\xbb\xbf" + lines.encode(), "csv") == [*right[:1], ("ve", "5"), *right[1:]]
    damaged = b'{"text": "one", "y": 1}\n\n{broken\n"two"\n{"text": "\xe9", "y": 4}\n{"text": "six", "y": 6}\n'
    assert labels("a.jsonl", damaged, "jsonl") == right
    array = b'[{"text": "one", "y": 1}, {"text": 2, "y": 2}, {"text": "six", "y": 6}]'
    assert labels("a.json", array, "jsonl") == right
    with pytest.raises(InputError, match="document 1 has none"):  # which of the two?
        labels("a.jsonl", b'{"text": "one", "y": 1}\n{"text": "six", "y": 6}{"text": "two", "y": 2}\n', "jsonl")
    text = [b"one", b"caf\xe9", None, b"four", b"five", b"six"]
    table = pa.table({"text": pa.array(text).view(pa.string()), "y": range(1, 7)})
    pq.write_table(
        table, file := io.BytesIO(), compression="none", use_dictionary=False, row_group_size=2, write_page_checksum=True
    )
    content = file.getvalue().replace(b"four", b"fear")
    assert labels("a.parquet", content, "parquet") == [("one", "1"), ("five", "5"), ("six", "6")], "two rows are one loss"


def test_classes_of_usable_cases(tmp_path: Path) -> None:
    run = run_with_checkpoint(tmp_path / "runs", **SERIES)
    lines = ["@problemName x", "@univariate\tTRUE", "@classLabel true a b c", "@data"]
    for label in "abc":
        lines += [f"{','.join(map(str, range(16)))}:{label}", "1,2,3:a", "# a comment", ""]
    (path := tmp_path / "s.ts").write_text("\r\n".join(lines))
    assert examples(run, {"kind": "case"}, path).labels == ["a", "b", "c"]
    targets = "\n".join(lines).replace("classLabel true a b c", "targetLabel true")
    for content, reason in ((targets, "its cases have numbers, not classes"), (f"@data\n{lines[4]}", "have no class")):
        path.write_text(content.replace(":a", "" if "no class" in reason else ":1.5"))
        with pytest.raises(InputError, match=reason):
            examples(run, {"kind": "case"}, path)


# Classes


def test_classes_of_images_from_end_to_end(tmp_path: Path) -> None:
    run = run_with_checkpoint(tmp_path / "runs", **IMAGES)
    named = {f"{side}_{who}_{n}.png": picture(120 + 9 * n, side == "l") for side in "lr" for who in "ab" for n in range(6)}
    source = {"path": str(archive(tmp_path / "a.tar", named)), "format": "webdataset"}
    labels = {"kind": "name", "pattern": r"(?P<label>[lr])_(?P<group>.)_"}
    task = {"kind": "classify", "train": source, "labels": labels, "pool": "flatten", "seeds": 2}
    found = foundray.probe(run.folder.url, task_file(tmp_path, **task, labels_per_class=3))
    assert [len(column) for column in (found.floor, found.random, found.ours)] == [2, 2, 2]
    assert found.floor == found.ours == [1.0, 1.0], "left and right are easy to separate"
    assert (found.facts["fitted to"], found.facts["tested on"]) == (6, 18)
    by_group = foundray.probe(run.folder.url, task_file(tmp_path, **task, leave_one_group_out=True), {"probe": "knn"})
    assert (by_group.ours, len(by_group.random), by_group.facts["tested on"]) == ([1.0], 2, 12)
    foundray.probe(run.folder.url, task_file(tmp_path, **task, labels_per_class=3))  # replaces the first
    kept = [json.loads(file.read_text()) for file in (tmp_path / "runs/small/probes").iterdir()]
    assert sorted((one["task"]["probe"], one["ours"]) for one in kept) == [("knn", [1.0]), ("linear", [1.0, 1.0])]
    assert "1.0000 ± 0.0000" in found.table()
    with pytest.raises(InputError, match="labels_per_class: class 'l' has 12 examples, fewer than 13"):
        foundray.probe(run.folder.url, task_file(tmp_path, **task, labels_per_class=13))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "clasify"}, "did you mean 'classify'\\?\\); there are: classify, forecast"),
        ({"labels_per_clas": 3}, "labels_per_clas is not a field .did you mean 'labels_per_class'"),
        ({"labels": {"kind": "name", "pattern": "("}}, "labels.pattern: not a regular expression"),
        ({"labels": {"kind": "name", "pattern": "x"}}, "labels.pattern: it has no group"),
        ({"labels": {"kind": "idx", "column": "y"}}, "column goes with kind 'column', but the kind is 'idx'"),
        ({"labels_per_class": None}, "nothing to test on"),
        ({"leave_one_group_out": True, "labels_per_class": None}, "leave_one_group_out needs labels of kind 'name'"),
        ({"pool": "max"}, "pool: input should be 'mean', 'last', 'mean_std', 'flatten' or 'class' \\(it is 'max'\\)"),
    ],
)
def test_a_wrong_task_is_one_sentence(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    right = {"kind": "classify", "train": {"path": "x"}, "labels": {"kind": "idx"}, "labels_per_class": 3}
    with pytest.raises(InputError, match=message):
        load_task(task_file(tmp_path, **(right | changes)))


# Forecasts


def test_the_head_is_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((300, 7)).astype(np.float32), rng.uniform(0.5, 2, 300).astype(np.float32)
    y = (x[:, :2] * 3 + 1 + rng.standard_normal((300, 2))).astype(np.float32)
    parts, ends = [], ((0, 150), (150, 220), (220, 300))
    for start, end in ends:
        moments = Moments()
        for a, b in ((start, start + 40), (start + 40, end)):
            moments.add(x[a:b], y[a:b], weight[a:b])
        parts.append(moments)

    def error(penalty: float, start: int, end: int) -> float:
        theirs = Ridge(alpha=penalty).fit(x[:150], y[:150], sample_weight=weight[:150])
        return float(np.mean(weight[start:end, None] * (theirs.predict(x[start:end]) - y[start:end]) ** 2))

    best = min((1.0, 10.0, 1000.0), key=lambda penalty: error(penalty, 150, 220))
    penalty, mse = fitted(parts[0], parts[1], parts[2], [1.0, 10.0, 1000.0])
    assert penalty == best
    assert mse == pytest.approx(error(best, 220, 300), rel=1e-4)


def test_a_forecast_from_end_to_end(tmp_path: Path) -> None:
    run = run_with_checkpoint(tmp_path / "runs", **SERIES)
    rng, hours = np.random.default_rng(0), np.arange(220)
    waves = np.stack([np.sin(hours / period) + rng.normal(0, 0.1, 220) for period in (3, 5)])
    rows = "\n".join(f"{a:.6f},{b:.6f}" for a, b in waves.T)
    (path := tmp_path / "s.csv").write_text("a,b\n" + rows + "\n")
    fields = {"kind": "forecast", "data": {"path": str(path), "format": "files"}, "horizon": 5, "split": [100, 50, 50]}
    task = load_task(task_file(tmp_path, **fields, penalties=[1.0], seeds=1))
    assert isinstance(task, Forecast)
    series = whole_series(task.data, Reader(run).modality)  # type: ignore[arg-type]
    assert np.allclose(series, waves, atol=1e-5)
    found = foundray.probe(run.folder.url, tmp_path / "task.yaml")
    data = standardised(series, 100, 200)
    fit, test = ([(c, t) for c in data for t in range(first, last)] for first, last in ((16, 96), (150, 196)))

    def arrays(windows: list[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        x, y = (np.stack([c[t + a : t + b] for c, t in windows]) for a, b in ((-16, 0), (0, 5)))
        mean, scale = x.mean(1, keepdims=True), np.sqrt(x.var(1, keepdims=True) + 1e-5)
        return (x - mean) / scale, y, mean, scale

    x, y, mean, scale = arrays(fit)
    ridge = Ridge(alpha=1.0).fit(x, (y - mean) / scale, sample_weight=scale[:, 0] ** 2)
    x, y, mean, scale = arrays(test)
    assert found.floor[0] == pytest.approx(np.mean((ridge.predict(x) * scale + mean - y) ** 2), rel=1e-3)
    assert found.facts["tested on"] == len(test)
    assert all(0 < value < 1 for value in found.ours + found.random)
    with pytest.raises(InputError, match="split: its parts add up to 300 steps, and the series has 220"):
        foundray.probe(run.folder.url, tmp_path / "task.yaml", {"split": [100, 50, 150]})
    with pytest.raises(InputError, match="the test part of 4 steps is too short for 5 after 16"):
        foundray.probe(run.folder.url, tmp_path / "task.yaml", {"split": [100, 50, 4]})
