"""The page's other pictures: loss by step, runs side by side, and those of a search and a forecast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from foundray.reports.panels import INK, WIDE, Format, Picture, both, bound, curve, legend, nothing, plain, titled, validation
from foundray.reports.searches import SearchFacts
from foundray.reports.series import Steps, smoothed, thinned, window
from foundray.reports.story import Story
from foundray.reports.svg import inline, part
from foundray.tuning import pictures
from foundray.tuning.forecast.forecast import Forecast
from foundray.tuning.pictures import COLOURS, LINES, MARKERS


def loss(story: Story) -> Picture:
    """Loss by step, beside validation, the forecast, and the learning rate."""
    ends = f"from {story.steps.loss[0]:.4g} to {story.steps.loss[-1]:.4g}"
    validated = f"; validation ends at {story.validation[-1][1]:.4g}" if story.validation else ""
    about = f"Training loss over {len(story.steps.step):,} steps, {ends}{validated}. Below, the learning rate."
    return both("loss", "Loss by step", about, lambda form: _loss(story, form))


def compared(stories: Sequence[Story]) -> Picture:
    """The losses of several runs by step."""
    about = f"Training loss, averaged, of {', '.join(story.name for story in stories)}, and validation losses as larger marks."
    return both("compared", "Losses side by side", about, lambda form: _compared(stories, form))


def search(found: SearchFacts | None, unit: str) -> Markup | None:
    """Trials in parallel coordinates, with losses in `unit`; None if none has a score."""
    if not found or not (trials := found.scored):
        return None
    about = f"One line per trial through one axis per setting, {len(trials)} in all; the best is drawn strongest."
    rows, scores = [trial.values for trial in trials], [trial.score for trial in trials]
    figure = pictures.parallel_coordinates(list(trials[0].values), rows, scores, unit)
    return inline(figure, "search", "The search", about)


def scaling_law(story: Story) -> Markup | None:
    """The scaling law of the forecast."""
    return None if story.law is None else law(story.law)


def law(found: Forecast) -> Markup:
    """A law, the ladder that it was fitted to, and its prediction."""
    about = "Loss against compute: runs of the ladder by their size, the law through them, and its prediction for this run."
    return inline(pictures.scaling_law(found), "law", "The forecast", about)


def _loss(story: Story, form: Format) -> Figure:
    wide = form is WIDE
    figure = Figure((form.width, 4.6 if wide else 4.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    steps = story.steps
    plain(top)
    titled(top, f"Loss, {story.loss_unit}")
    curve(top, steps.step, steps.loss, form)
    if story.validation:
        validation(top, [step for step, _ in story.validation], [value for _, value in story.validation])
    marked = [value for _, value in story.validation]
    if stated := story.forecast:
        low, high = stated["interval"]["low"], stated["interval"]["high"]
        bars = [[stated["loss"] - low], [high - stated["loss"]]]
        top.errorbar(
            [story.spec.train.steps], [stated["loss"]], bars, color=INK, marker="*", markersize=10, capsize=5, linestyle="",
            label="forecast, 90 %", clip_on=False, zorder=6,
        )  # fmt: skip
        marked += [low, high]
    bound(top, steps.loss, marked)
    legend(top, form)
    plain(bottom)
    titled(bottom, "Learning rate")
    bottom.plot(*thinned(steps.step, steps.lr, form.points // 2), color=INK, linewidth=1.2, gid=part("rate"))
    bottom.set_ylim(0)
    bottom.yaxis.set_major_locator(MaxNLocator(3))
    _by_step(bottom, max(story.spec.train.steps, int(steps.step[-1])), wide)
    return figure


def _compared(stories: Sequence[Story], form: Format) -> Figure:
    wide = form is WIDE
    figure = Figure((form.width, (4.6 if wide else 4.2) + (0 if wide else 0.2 * len(stories))), layout="constrained")
    axes = plain(figure.subplots())
    units = {story.loss_unit for story in stories}
    titled(axes, f"Loss{f', {units.pop()}' if len(units) == 1 else ''}, averaged; large marks: validation")
    every: list[float] = []
    marked: list[float] = []
    for index, story in enumerate(stories):
        if not len(story.steps.step):
            continue
        colour, line = COLOURS[index % len(COLOURS)], LINES[index % len(LINES)]
        steps, mean = _averaged(story.steps, form)
        marker = MARKERS[index % len(MARKERS)]
        axes.plot(
            steps, mean, color=colour, linestyle=line, linewidth=1.6, marker=marker, markersize=3.5, label=story.name,
            markevery=(index / len(stories) * 0.1, 0.1), gid=part(f"run-{index}"),
        )  # fmt: skip
        if story.validation:
            at, values = zip(*story.validation, strict=True)
            axes.plot(at, values, color=colour, linestyle="", marker=marker, markersize=7, markerfacecolor="none")
            marked += values
        every += mean[np.isfinite(mean)].tolist()
    if every:
        bound(axes, np.array(every), marked)
        figure.legend(loc="outside right upper" if wide else "outside lower left", frameon=False, handlelength=3)
    else:
        nothing(axes)
    _by_step(axes, max(story.spec.train.steps for story in stories), wide)
    return figure


def _averaged(steps: Steps, form: Format) -> tuple[np.ndarray, np.ndarray]:
    return thinned(steps.step, smoothed(steps.loss, window(len(steps.loss))), form.points // 2)


def _by_step(axes: Axes, steps: int, wide: bool) -> None:
    axes.set_xlim(-0.005 * steps, steps * 1.01)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(9 if wide else 4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
