"""A run opened in Python, results in a notebook, and functions that are told what happens."""

from __future__ import annotations

import ast
import math
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import pytest
from tests.unit.recording import started, step

import foundray
from foundray.errors import InputError
from foundray.runs.run import Run
from foundray.spec import Spec
from foundray.storage import Store
from foundray.testing.records import event_at, step_records
from foundray.testing.runs import run_with_checkpoint, run_with_records
from foundray.testing.specs import IMAGES, make_spec
from foundray.training.telemetry.recorder import Recorder
from foundray.wording.shown import Shown


def test_metrics_have_one_row_per_step_that_counts(tmp_path: Path) -> None:
    events = [
        event_at(0, "workers_started", step=0),
        event_at(10, "evaluated", step=10, val_loss=3.0, bits_per_byte=1.5),
        event_at(40, "rolled_back", step=18, spike=18, to=15, passed_over=3, cut="c0"),
    ]
    run = run_with_records(tmp_path, events, [*step_records(1, 12, 0), *step_records(9, 18, 15, loss=0.5)])
    metrics = foundray.open_run(run.folder.path).metrics()
    assert list(metrics.index) == list(range(1, 16)), "16 to 18 are undone"
    assert list(metrics["loss"]) == [2 + 4 / number for number in range(1, 9)] + [0.5] * 7, "the last record counts"
    assert (metrics.loc[10, "val_loss"], metrics.loc[10, "bits_per_byte"]) == (3.0, 1.5)
    assert math.isnan(metrics.loc[11, "val_loss"])
    assert len(foundray.open_run(run.folder.path).steps()) == 22


def test_metrics_of_a_run_that_has_just_begun_are_empty(tmp_path: Path) -> None:
    metrics = foundray.open_run(run_with_records(tmp_path).folder.path).metrics()
    assert len(metrics) == 0 and {"loss", "val_loss"} <= set(metrics.columns)


def test_model_and_tokenizer_are_ready_to_use(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    prepared = run_with_records(tmp_path / "records").folder / "data.json"  # with a whole manifest
    trained = run_with_checkpoint(tmp_path)
    (trained.folder / "data.json").write_text(prepared.read_text())
    run = foundray.open_run(trained.folder.path)
    model, tokenizer = run.model(), run.tokenizer()
    assert type(model).__name__.endswith("ForCausalLM") and not model.training
    ids = model.generate(**tokenizer("ab", return_tensors="pt"), max_new_tokens=3, do_sample=False)
    assert ids.shape[1] >= 3
    with pytest.raises(InputError, match="learned from image, which has no tokenizer"):
        foundray.open_run(run_with_checkpoint(tmp_path / "images", **IMAGES).folder.path).tokenizer()


def test_a_run_and_its_facts_are_tables_in_a_notebook(tmp_path: Path) -> None:
    run = run_with_records(tmp_path / "<b>", [event_at(0, "workers_started", step=0)], step_records(1, 3, 0))
    opened = foundray.open_run(run.folder.path)
    for shown in (opened._repr_html_(), opened.facts()._repr_html_()):
        assert shown.startswith("<table>") and "interrupted" in shown and "objective" in opened._repr_html_()
        assert "<b></b>" not in shown and "/<b>/" not in shown, "nothing is read as HTML"


def test_every_result_of_a_function_is_shown_in_a_notebook() -> None:
    results = []
    for name in foundray.__all__:
        function = getattr(foundray, name)
        if isinstance(function, type):
            continue
        module = sys.modules[function.__module__]
        kind = get_type_hints(function, {**vars(module), **imported(module)}).get("return")
        if kind not in (str, type(None), Path, list[str]) and getattr(kind, "__name__", "") not in ("list", "Loaded"):
            results.append(kind)
    assert len(results) > 10
    assert [kind for kind in results if not hasattr(kind, "_repr_html_")] == []


def imported(module: ModuleType) -> dict[str, Any]:
    """What a module imports for its types alone."""
    tree = ast.parse(Path(str(module.__file__)).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    froms = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {name.name: getattr(import_module(node.module or ""), name.name) for node in froms for name in node.names}


def test_values_are_shown_shortened_and_empty_ones_are_left_out() -> None:
    from dataclasses import dataclass

    @dataclass
    class Result(Shown):
        steps_done: int
        share: float
        names: list[str]
        nothing: None = None

    shown = Result(12000, 0.123456789, ["x" * 1000])._repr_html_()
    assert "12,000" in shown and "0.123457" in shown and "steps done" in shown and "…" in shown and "nothing" not in shown


def test_a_function_is_told_each_record_and_may_fail(tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []
    said: list[str] = []

    def watch(record: dict[str, Any]) -> None:
        told.append((record["event"], record["step"]))
        if record["step"] == 2:
            raise ValueError("not this one")

    spec: Spec = make_spec()
    recorder = Recorder(Run(Store.at(tmp_path)), spec, None, said.append, False, on_event=watch)
    recorder.write([started(0), step(1), step(2)])
    recorder.write([step(2), step(3)])
    recorder.close()
    assert told == [("workers_started", 0), ("step", 1), ("step", 2), ("step", 3)]
    assert [line for line in said if "on_event" in line] == [
        "on_event failed at `step`, and the run continues: ValueError: not this one"
    ]
