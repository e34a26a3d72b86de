"""Figures: their labels, their exact reproduction, and what they leave out."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from tests.unit.tuning.ladders import HOFFMANN, ladder

from foundray.errors import InputError
from foundray.storage import Store
from foundray.tuning import pictures
from foundray.tuning.forecast.forecast import Target, forecast

RATES = [2.0**power for power in (-9, -8, -7, -6)]


def law() -> Figure:
    return pictures.scaling_law(forecast(ladder(HOFFMANN, 0.003), Target(1e8, 2e9), draws=100))


def coordinates() -> Figure:
    modules = {"attention": {64: [1.0, 1.1], 256: [1.0, 1.2]}, "logits": {64: [0.1, 0.5], 256: [0.1, 0.9]}}
    return pictures.coordinate_check({"CompleteP": modules, "standard": modules}, "width")


def rates() -> Figure:
    valley = [(rate, 3 + at**2 / 10, 0.01) for at, rate in enumerate(RATES, -1)]
    return pictures.transfer(
        {"CompleteP": {64: valley, 128: [*valley[:3], (RATES[3], math.nan, 0.0)]}, "standard": {64: valley}}
    )


def search() -> Figure:
    rows = [
        {"lr": 1e-4, "kind": "adamw"},
        {"lr": 1e-2, "kind": "muon"},
        {"lr": 1e-3, "kind": "adamw"},
        {"lr": 1.0, "kind": "x"},
    ]
    return pictures.parallel_coordinates(["lr", "kind"], rows, [3.0, 2.5, 2.0, math.inf])


@pytest.mark.parametrize(
    ("draw", "labels"),
    [
        (law, ["compute 6ND [FLOPs]", "loss [nats]", "off the law [%]", "N = 1M", "N = 10M", "best N and D", "target: "]),
        (coordinates, ["CompleteP", "standard", "attention", "logits", "width", "64", "256", "RMS change of"]),
        (rates, ["CompleteP", "standard", "learning rate", "loss [nats]", "64", "128", "0.0039"]),
        (search, ["lr", "kind", "muon", "adamw", "0.001", "best: 2.0000 nats", "loss [nats]"]),
    ],
)  # fmt: skip
def test_pictures_are_svg_with_their_labels_and_repeat(draw: Callable[[], Figure], labels: list[str], tmp_path: Path) -> None:
    first, second = tmp_path / "new" / "a.svg", tmp_path / "b.svg"
    for place in (first, second):
        pictures.save(draw(), Store.at(place))
    assert first.read_bytes() == second.read_bytes()
    assert ElementTree.fromstring(first.read_text()).tag == "{http://www.w3.org/2000/svg}svg"
    for label in labels:
        assert f"<!-- {label}" in first.read_text()


def test_the_best_trial_is_on_top_and_failed_ones_are_left_out() -> None:
    axes = search().axes[0]
    trials = [line for line in axes.lines if len(line.get_xdata()) == 3]
    best = max(trials, key=lambda line: line.get_zorder())
    assert len(trials) == 3 and best.get_label().startswith("best")
    # 1e-3 is in the middle of a logarithmic axis from 1e-4 to 1e-2, and 2.0 at the bottom of the loss axis.
    assert list(best.get_ydata())[::2] == pytest.approx([0.5, 0])


def test_diverged_runs_neither_count_nor_squeeze_the_panel() -> None:
    valley = [(rate, 3 + at**2 / 100, 0.0) for at, rate in enumerate(RATES)]
    runs = {64: [*valley, (0.03, 900.0, 0.0), (0.06, math.nan, 0.0)], 128: [(0.1, math.nan, 0.0)]}
    axes = pictures.transfer({"x": runs}).axes[0]
    stars = [line for line in axes.lines if line.get_marker() == "*"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in stars] == [(RATES[0], 3.0)]
    assert axes.get_ylim()[1] < 4


def test_nothing_to_draw() -> None:
    with pytest.raises(InputError, match="no run has a finite loss"):
        pictures.transfer({"x": {64: [(0.1, math.nan, 0.0)]}})
    with pytest.raises(InputError, match="no trial has a finite loss"):
        pictures.parallel_coordinates(["lr"], [{"lr": 0.1}], [math.inf])


def test_series_differ_without_colour() -> None:
    for axes in coordinates().axes:
        after = [line for line in axes.lines if not line.get_label().startswith("_")]
        assert len({(line.get_marker(), str(line.get_linestyle())) for line in after}) == len(after) == 2


def test_with_unit() -> None:
    assert [pictures.with_unit(number) for number in (950, 1e6, 12_640_000, 7e9)] == ["950", "1M", "12.6M", "7B"]


def test_a_figure_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/a\.svg cannot be written"):
        pictures.save(search(), Store.at(tmp_path / "file" / "a.svg"))
