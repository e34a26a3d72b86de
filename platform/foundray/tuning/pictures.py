"""Figures of a forecast, a coordinate check, learning rates across widths, and a search; readable in greyscale too.

Each function returns a matplotlib figure without a window; `save` writes it as SVG, the same bytes for the same data.
Series differ in marker and line style as well as in colour (Okabe and Ito's palette, safe for colour-blind readers).
"""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from foundray.errors import InputError
from foundray.storage import Store
from foundray.tuning.forecast.forecast import Forecast

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (9, 3)))
PALE = "#BBBBBB"


def scaling_law(forecast: Forecast) -> Figure:
    """Plot loss against FLOPs: a curve per model size, the least loss for the FLOPs, and the target with its interval.

    Below: each run's deviation from the law, on the scale of the target's interval.
    """
    # The least loss for each number of FLOPs, and the law as the zero line of the deviations.
    figure = Figure((8, 6), layout="constrained")
    panels = [_plain(axes) for axes in figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))]
    law, target = forecast.law, forecast.target
    compute = [point.flops for point in forecast.points]
    along = np.geomspace(min(compute) / 2, 2 * max(target.flops, *compute), 100)
    panels[0].plot(along, [law.loss(*law.optimum(flops)) for flops in along], color=PALE, linewidth=4, label="best N and D")
    panels[1].axhline(0, color=PALE, linewidth=4)
    # Per model size: the law's curve, and its runs.
    for size, style in zip(sorted({point.parameters for point in forecast.points}), _styles(), strict=False):
        points = sorted((point for point in forecast.points if point.parameters == size), key=lambda point: point.tokens)
        flops, losses = np.array([point.flops for point in points]), np.array([point.loss for point in points])
        along = np.geomspace(flops[0] / 2, flops[-1] * 4, 60)
        panels[0].plot(along, law.loss(size, along / 6 / size), **{**style, "marker": ""}, linewidth=1)
        panels[0].plot(flops, losses, **{**style, "linestyle": ""})
        panels[0].plot([], [], **style, linewidth=1, label=f"N = {with_unit(size)}")
        panels[1].plot(flops, 100 * (losses / law.loss(size, flops / 6 / size) - 1), **{**style, "linestyle": ""})
    # The target, with its interval, in both panels.
    low, high = forecast.interval.low, forecast.interval.high
    label = f"target: {forecast.loss:.3f} {forecast.unit}\n90 %: {low:.3f} to {high:.3f}"
    for axes, middle, scale in ((panels[0], forecast.loss, 1), (panels[1], 0, 100 / forecast.loss)):
        bars = [[scale * (forecast.loss - low)], [scale * (high - forecast.loss)]]
        axes.errorbar(
            target.flops, middle, bars, color="black", marker="*", markersize=11, capsize=5, linestyle="", label=label
        )
    panels[1].set_xscale("log")
    panels[1].set_xlabel("compute 6ND [FLOPs]")
    panels[0].set_ylabel(f"loss [{forecast.unit}]")
    panels[1].set_ylabel("off the law [%]")
    _legend(figure, panels)
    return figure


def coordinate_check(curves: Mapping[str, Mapping[str, Mapping[int, Sequence[float]]]], over: str) -> Figure:
    """Plot the change of activations against `over`, width or depth: a panel per title, a line per part.

    `curves` is `{title: {part: {size: [root mean square by step]}}}`. Thin grey lines show the first step, strong ones the
    last; they are level if the parametrisation transfers.
    """
    figure, panels = _panels(curves)
    for axes, (_, parts) in zip(panels, curves.items(), strict=True):
        for (part, sizes), style in zip(parts.items(), _styles(), strict=False):
            found = sorted(sizes)
            axes.plot(found, [sizes[size][0] for size in found], **{**style, "color": PALE}, markersize=3, linewidth=0.8)
            axes.plot(found, [sizes[size][-1] for size in found], **style, label=part)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel(over)
        _ticks(axes, sorted({size for sizes in parts.values() for size in sizes}))
    panels[0].set_ylabel("RMS change of activations")
    steps = max(len(by_step) for parts in curves.values() for sizes in parts.values() for by_step in sizes.values())
    _legend(figure, panels, f"after {steps} steps\n(grey: after 1)")
    return figure


def transfer(curves: Mapping[str, Mapping[int, Sequence[tuple[float, float, float]]]], unit: str = "nats") -> Figure:
    """Plot loss against learning rate, a panel per title and a line per width, for `{title: {width: [(rate, loss, spread)]}}`.

    Spreads are bars; a star marks each width's least loss. Losses that are not finite are left out, and those far above the
    rest lie outside the panel, so that the valleys stay visible. Raises InputError if no loss is finite.
    """
    if not (
        finite := [run[1] for widths in curves.values() for runs in widths.values() for run in runs if math.isfinite(run[1])]
    ):
        raise InputError("no run has a finite loss: there are no learning rates to draw")
    figure, panels = _panels(curves)
    every = sorted({width for widths in curves.values() for width in widths})
    styles = dict(zip(every, _styles(), strict=False))
    for axes, (_, widths) in zip(panels, curves.items(), strict=True):
        for width, runs in sorted(widths.items()):
            if not (whole := sorted(run for run in runs if math.isfinite(run[1]))):
                continue
            rates, losses, spreads = zip(*whole, strict=True)
            axes.errorbar(rates, losses, spreads, **styles[width], capsize=2, elinewidth=0.8, label=f"{width}")
            best = int(np.argmin(losses))
            axes.plot(
                rates[best], losses[best], marker="*", markersize=15, color=styles[width]["color"], markeredgecolor="black",
                zorder=5,
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xlabel("learning rate")
        _ticks(axes, sorted({rate for runs in widths.values() for rate, _, _ in runs}))
    # Cut off losses far above the third quartile.
    least, upper = np.quantile(finite, (0, 0.75))
    if max(finite) > (far := least + 3 * (upper - least)):
        panels[0].set_ylim(least - 0.1 * (far - least), far)
    panels[0].set_ylabel(f"loss [{unit}]")
    _legend(figure, panels, "width\n(star: best)")
    return figure


def parallel_coordinates(
    names: Sequence[str], rows: Sequence[Mapping[str, float | str]], losses: Sequence[float], unit: str = "nats"
) -> Figure:
    """Plot a search: a line per trial through one axis per setting and one of the loss; better trials darker, the best on top.

    An axis of positive numbers is logarithmic if they span more than a factor of ten. Trials without a finite loss are left
    out. Raises InputError if no trial has one.
    """
    trials = sorted((trial for trial in zip(losses, rows, strict=True) if math.isfinite(trial[0])), key=lambda trial: -trial[0])
    if not trials:
        raise InputError("no trial has a finite loss: there is no search to draw")
    figure = Figure((1.8 * (len(names) + 1) + 1, 4.2), layout="constrained")
    axes = _plain(figure.subplots())
    axes.spines[:].set_visible(False)
    columns = [[row[name] for _, row in trials] for name in names] + [[loss for loss, _ in trials]]
    heights = np.array([_axis(axes, at, column) for at, column in enumerate(columns)])
    for rank, line in enumerate(heights.T, 1):
        best, grey = rank == len(trials), f"{0.85 - 0.45 * rank / len(trials):.2f}"
        axes.plot(
            line, color=COLOURS[0] if best else grey, marker="o" if best else "", markersize=7, linewidth=3 if best else 1,
            zorder=2 + rank / len(trials), label=f"best: {trials[-1][0]:.4f} {unit}" if best else "",
        )  # fmt: skip
    axes.set_xticks(range(len(columns)), [*names, f"loss [{unit}]"])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.1, len(names) + 0.35)
    axes.set_yticks([])
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def save(figure: Figure, file: Store) -> None:
    """Write an SVG whose bytes depend on the figure alone. Raises InputError if that fails."""
    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "foundray"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    file.write_bytes(stream.getvalue())


def show(folder: Store, figures: Mapping[str, Figure], write: Callable[[Any], None] = lambda board: None) -> None:
    """Write the figures, and whatever `write` adds, for TensorBoard; replaces the folder.

    TensorBoard's writer needs a local folder, so files are written there first and then copied.
    """
    from tensorboardX import SummaryWriter

    folder.delete_folder()
    with tempfile.TemporaryDirectory() as scratch:
        with SummaryWriter(scratch) as board:
            write(board)
            for name, figure in figures.items():
                board.add_figure(name, figure)
        for file in sorted(Path(scratch).rglob("*")):
            if file.is_file():
                (folder / file.relative_to(scratch).as_posix()).write_bytes(file.read_bytes())


def with_unit(number: float) -> str:
    """Format a number with three digits and a unit: `12.6M`."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:.3g}"


def _styles() -> Iterator[dict[str, Any]]:
    """Endless line styles; the first 35 differ, and neighbours differ in colour, marker and line."""
    return (
        {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "linestyle": LINES[i % len(LINES)]}
        for i in count()
    )


def _plain(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _panels(curves: Mapping[str, Any]) -> tuple[Figure, list[Axes]]:
    """Panels side by side, one per title, with a shared scale."""
    figure = Figure((3.6 * len(curves) + 2, 4), layout="constrained")
    panels = [_plain(axes) for axes in figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]]
    for axes, title in zip(panels, curves, strict=True):
        axes.set_title(title)
    return figure, panels


def _ticks(axes: Axes, values: Sequence[float]) -> None:
    """Set a tick at every value, or at every second, third... of many."""
    shown = values[:: math.ceil(len(values) / 6)]
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(shown, [f"{value:.2g}" if value < 1 else f"{value:g}" for value in shown])


def _legend(figure: Figure, panels: Sequence[Axes], title: str = "") -> None:
    """Add a legend beside the panels, with each label once."""
    handles = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), title=title, loc="outside right upper", frameon=False)


def _axis(axes: Axes, at: int, values: Sequence[float | str]) -> list[float]:
    """Draw an axis at x = `at`, from 0 to 1, and return the heights of the values on it."""
    # Words are spaced evenly; numbers on a linear or logarithmic scale.
    heights: list[float]
    if any(isinstance(value, str) for value in values):
        words = sorted({str(value) for value in values})
        heights = [(words.index(str(value)) + 0.5) / len(words) for value in values]
        ticks = {word: (index + 0.5) / len(words) for index, word in enumerate(words)}
    else:
        numbers = np.array(values, np.float64)
        least, most = numbers.min(), numbers.max()
        logarithmic = least > 0 and most > 10 * least
        scale, back = (np.log, np.exp) if logarithmic else (np.asarray, np.asarray)
        low, high = scale(least), scale(most)
        width = high - low or 1
        heights = list((scale(numbers) - low) / width if high > low else np.full(len(numbers), 0.5))
        different = np.unique(numbers)
        marks = different if len(different) <= 5 else back(np.linspace(low, high, 5))
        ticks = {f"{mark:.3g}": float((scale(mark) - low) / width) if high > low else 0.5 for mark in marks}
    # The axis, and its ticks as text beside it.
    axes.plot([at, at], [0, 1], color="black", linewidth=0.8, zorder=1)
    for text, height in ticks.items():
        axes.annotate(
            text, (at, height), (4, 0), textcoords="offset points", va="center", fontsize=8, zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
        )  # fmt: skip
    return heights
