"""The page's pictures: readable without colour, each drawn twice, for a wide page and for a narrow one.

Series differ by weight, line and marker; incidents by their markers' shapes, and by numbers that the page's table explains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from foundray.reporting.incidents import Incident
from foundray.reporting.series import POINTS, Steps, parted, smoothed, thinned, throughput, window, worlds
from foundray.reporting.story import Story
from foundray.reporting.svg import inline, part
from foundray.reporting.words import count, duration
from foundray.tuning import pictures
from foundray.tuning.pictures import COLOURS, LINES, MARKERS

INK, SOFT, FAINT, PALE = "#000000", "#555555", "#999999", "#dddddd"
MAIN, ALERT = COLOURS[0], COLOURS[1]
MARKS = {"start": ">", "fault": "v", "change": "D", "storage": "s", "numbers": "X", "stop": "P", "end": "o"}
"""Marker of each sort of incident."""
STYLE = {
    "font.size": 9.5, "axes.titlesize": 9.5, "axes.labelsize": 9.5,
    "axes.edgecolor": FAINT, "axes.linewidth": 0.8, "xtick.color": FAINT, "ytick.color": FAINT, "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT, "axes.labelcolor": SOFT, "legend.fontsize": 9, "path.simplify": False,
}  # fmt: skip


@dataclass(frozen=True)
class Format:
    name: str
    width: float
    """Inches, of 72 units of the SVG."""
    near: float
    """Share of the width by which numbers have to be apart."""
    points: int


WIDE, NARROW = Format("wide", 9.6, 0.022, POINTS), Format("narrow", 3.9, 0.055, POINTS // 3)


@dataclass(frozen=True)
class Picture:
    key: str
    wide: Markup
    narrow: Markup


def timeline(story: Story) -> Picture:
    """Loss, workers and throughput over running time, and every incident on it."""
    tips = {f"incident-{number}": f"{number}. {one.title}" for number, one in enumerate(story.incidents, 1)}
    about = (
        f"Three panels over {duration(story.length)} of running time: training loss, workers, tokens a second. "
        f"{len(story.incidents)} numbered marks stand for what the table below tells."
    )
    return _both("timeline", "The run over time", about, lambda form: _timeline(story, form), tips)


def loss(story: Story) -> Picture:
    """Loss by step, beside validation, the forecast, and the learning rate."""
    last = f"from {story.steps.loss[0]:.4g} to {story.steps.loss[-1]:.4g}"
    validation = f"; validation ends at {story.validation[-1][1]:.4g}" if story.validation else ""
    about = f"Training loss over {len(story.steps.step):,} steps, {last}{validation}. Below, the learning rate."
    return _both("loss", "Loss by step", about, lambda form: _loss(story, form))


def compared(stories: Sequence[Story]) -> Picture:
    """The losses of several runs by step."""
    about = f"Training loss, averaged, of {', '.join(story.name for story in stories)}, and validation losses as larger marks."
    return _both("compared", "Losses side by side", about, lambda form: _compared(stories, form))


def drawn(key: str, title: str, about: str, figure: Figure) -> Markup:
    """A picture of a search or a forecast, as it is kept in their folders."""
    return inline(figure, key, title, about)


def _both(
    key: str, title: str, about: str, draw: Callable[[Format], Figure], tips: Mapping[str, str] | None = None
) -> Picture:
    made = []
    for form in (WIDE, NARROW):
        with matplotlib.rc_context(STYLE):
            made.append(inline(draw(form), f"{key}-{form.name}", title, about, tips))
    return Picture(key, *made)


# Over time


def _timeline(story: Story, form: Format) -> Figure:
    wide = form is WIDE
    figure = Figure((form.width, 5.4 if wide else 5.6), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.03, hspace=0.02)  # type: ignore[union-attr, call-arg]
    strip, top, middle, bottom = figure.subplots(4, 1, sharex=True, height_ratios=(0.42, 2.6, 0.8, 1))
    panels = (top, middle, bottom)
    for axes in panels:
        _plain(axes)
    _loss_over_time(top, story, form)
    moments, sizes = worlds(story.events, story.clock)
    _titled(middle, "Workers")
    if moments:
        moments, sizes = [*moments, story.length], [*sizes, sizes[-1]]
        middle.fill_between(moments, sizes, step="post", color=PALE, linewidth=0)
        middle.plot(moments, sizes, drawstyle="steps-post", color=INK, linewidth=1.4, gid=part("workers"))
    middle.set_ylim(0, max([*sizes, 1]) * 1.15)
    middle.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    _titled(bottom, "Tokens a second, of steps that count")
    if story.metrics:
        edges, rates = throughput(story.metrics, story.clock, story.spec.tokens_per_step)
        bottom.stairs(rates, edges, fill=True, color=PALE)
        bottom.stairs(rates, edges, color=INK, linewidth=1, gid=part("throughput"))
    bottom.set_ylim(0)
    bottom.yaxis.set_major_locator(MaxNLocator(4))
    bottom.yaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value) if value else "0"))
    bottom.set_xlim(-0.005 * story.length, 1.005 * story.length)
    unit, scale = next((name, size) for name, size in _UNITS if story.length >= 3 * size or size == 1)
    bottom.xaxis.set_major_locator(_Multiples(scale, 9 if wide else 5))
    bottom.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / scale:g}"))
    bottom.set_xlabel(f"running time, {unit}")
    _marks(strip, panels, story, form)
    return figure


_UNITS = (("days", 86400), ("hours", 3600), ("minutes", 60), ("seconds", 1))


class _Multiples(MaxNLocator):
    """Round numbers of a unit of time."""

    def __init__(self, scale: float, most: int):
        super().__init__(most, steps=[1, 2, 5, 10])
        self.scale = scale

    def tick_values(self, vmin: float, vmax: float) -> np.ndarray:
        return np.asarray(super().tick_values(vmin / self.scale, vmax / self.scale)) * self.scale


def _loss_over_time(axes: Axes, story: Story, form: Format) -> None:
    _titled(axes, f"Loss{story.unit}")
    if not story.metrics:
        _nothing(axes)
        return
    moments = np.maximum.accumulate(np.asarray(story.clock.at([record["time"] for record in story.metrics])))
    losses = np.array([record["loss"] for record in story.metrics])
    stops = [float(story.clock.at(one.time + one.still / 2)) for one in story.incidents if one.still]
    _curve(axes, moments, losses, form, stops)
    if found := [(float(story.clock.at(event["time"])), value) for event, value in story.evaluations]:
        _validation(axes, [at for at, _ in found], [value for _, value in found])
    _bound(axes, losses, [value for _, value in found])
    _legend(axes, form)


def _marks(strip: Axes, panels: Sequence[Axes], story: Story, form: Format) -> None:
    """A strip above the panels, with a marker and a number for each incident, and lines through the panels."""
    strip.set_ylim(0, 1)
    strip.set_axis_off()
    numbers: list[tuple[float, list[int]]] = []
    for number, one in enumerate(story.incidents, 1):
        at, alarming = float(story.clock.at(one.time)), one.alarming
        colour = ALERT if alarming else SOFT
        strip.plot(
            [at], [0.2], MARKS[one.sort], color=colour, markersize=6, markeredgewidth=0, clip_on=False, gid=part(f"incident-{number}")
        )  # fmt: skip
        for axes in panels:
            _line(axes, at, one, colour)
        if numbers and at - numbers[-1][0] < form.near * story.length * max(1, 0.6 * len(str(number))):
            numbers[-1][1].append(number)
        else:
            numbers.append((at, [number]))
    for at, group in numbers:
        text = f"{group[0]}" if len(group) == 1 else f"{group[0]}–{group[-1]}"
        strip.text(at, 0.62, text, ha="center", va="bottom", fontsize=9, color=SOFT, fontweight="bold")


def _line(axes: Axes, at: float, one: Incident, colour: str) -> None:
    if one.still:
        axes.axvspan(at, at + one.still, color=PALE, alpha=0.7, linewidth=0, zorder=0)
    style = (0, (4, 2)) if colour == ALERT else (0, (1, 2))
    axes.axvline(at, color=colour, linewidth=0.8, linestyle=style, zorder=1)


# By step


def _loss(story: Story, form: Format) -> Figure:
    wide = form is WIDE
    figure = Figure((form.width, 4.6 if wide else 4.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    steps = story.steps
    _plain(top)
    _titled(top, f"Loss{story.unit}")
    _curve(top, steps.step, steps.loss, form)
    if story.validation:
        _validation(top, [step for step, _ in story.validation], [value for _, value in story.validation])
    marked = [value for _, value in story.validation]
    if stated := story.forecast:
        low, high = stated["interval"]["low"], stated["interval"]["high"]
        bars = [[stated["loss"] - low], [high - stated["loss"]]]
        top.errorbar(
            [story.spec.train.steps], [stated["loss"]], bars, color=INK, marker="*", markersize=10, capsize=5, linestyle="",
            label="forecast, 90 %", clip_on=False, zorder=6,
        )  # fmt: skip
        marked += [low, high]
    _bound(top, steps.loss, marked)
    _legend(top, form)
    _plain(bottom)
    _titled(bottom, "Learning rate")
    bottom.plot(*thinned(steps.step, steps.lr, form.points // 2), color=INK, linewidth=1.2, gid=part("rate"))
    bottom.set_ylim(0)
    bottom.yaxis.set_major_locator(MaxNLocator(3))
    _by_step(bottom, max(story.spec.train.steps, int(steps.step[-1])), wide)
    return figure


def _compared(stories: Sequence[Story], form: Format) -> Figure:
    wide = form is WIDE
    figure = Figure((form.width, (4.6 if wide else 4.2) + (0 if wide else 0.2 * len(stories))), layout="constrained")
    axes = _plain(figure.subplots())
    units = {story.unit for story in stories}
    _titled(axes, f"Loss{units.pop() if len(units) == 1 else ''}, averaged; large marks: validation")
    every: list[float] = []
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
        every += mean[np.isfinite(mean)].tolist()
    if every:
        _bound(axes, np.array(every), [])
        figure.legend(loc="outside right upper" if wide else "outside lower left", frameon=False, handlelength=3)
    else:
        _nothing(axes)
    _by_step(axes, max(story.spec.train.steps for story in stories), wide)
    return figure


def _averaged(steps: Steps, form: Format) -> tuple[np.ndarray, np.ndarray]:
    return thinned(steps.step, smoothed(steps.loss, window(len(steps.loss))), form.points // 2)


# Parts of panels


def _curve(axes: Axes, x: np.ndarray, losses: np.ndarray, form: Format, stops: Sequence[float] = ()) -> None:
    """Every step's loss, faint, and its running mean; the lines are broken at `stops`."""
    width = window(len(losses))
    axes.plot(*parted(*thinned(x, losses, form.points), stops), color=FAINT, alpha=0.75, linewidth=0.6, label="each step", gid=part("raw"))
    if width > 1:
        mean = thinned(x, smoothed(losses, width), form.points // 2)
        axes.plot(*parted(*mean, stops), color=MAIN, linewidth=2, label=f"mean of {width:,} steps", gid=part("mean"))


def _validation(axes: Axes, x: Sequence[float], losses: Sequence[float]) -> None:
    axes.plot(
        x, losses, color=INK, marker="o", markersize=5, markerfacecolor="#ffffff", linestyle="", label="validation",
        zorder=5, clip_on=False, gid=part("validation"),
    )  # fmt: skip


def _bound(axes: Axes, losses: np.ndarray, marked: Sequence[float]) -> None:
    """Let single high losses lie above the panel, with a word of it, and draw what spans decades by its logarithm."""
    finite = losses[np.isfinite(losses)]
    if not len(finite):
        return
    most = float(np.quantile(finite, 0.99))
    least, far = float(finite.min()), float(finite.max())
    if least > 0 and most > 30 * least:
        axes.set_yscale("log")
    elif far - most > 2 * (most - least) > 0:
        ceiling = max([most + 0.3 * (most - least), *marked])
        axes.set_ylim(min([least, *marked]) - 0.05 * (ceiling - least), ceiling)
        above = int(np.sum(finite > ceiling))
        axes.annotate(
            f"↑ {above} above, up to {far:.4g}", (0, 1), (4, -4), xycoords="axes fraction", textcoords="offset points",
            va="top", fontsize=9, color=SOFT, annotation_clip=False,
        )  # fmt: skip


def _plain(axes: Axes) -> Axes:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def _titled(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontweight="bold", color=INK, pad=5)


def _legend(axes: Axes, form: Format) -> None:
    """Beside the title, or in the corner that falling losses leave free."""
    if form is WIDE:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, ncols=4, handlelength=1.8, borderaxespad=0.2)
    else:
        axes.legend(loc="upper right", frameon=True, facecolor="#ffffff", edgecolor="#ffffff", handlelength=1.8, borderaxespad=0)


def _nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "no step is recorded yet", transform=axes.transAxes, ha="center", va="center", color=SOFT)


def _by_step(axes: Axes, steps: int, wide: bool) -> None:
    axes.set_xlim(-0.005 * steps, steps * 1.01)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(9 if wide else 4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def search(story: Story) -> Markup | None:
    """Trials in parallel coordinates, as the search keeps them."""
    found = story.search
    trials = [trial for trial in found.scored] if found else []
    if not found or not trials:
        return None
    about = f"A line a trial through an axis a setting, {len(trials)} in all; the best is drawn strongest."
    figure = pictures.parallel_coordinates(list(trials[0].values), [t.values for t in trials], [t.score for t in trials])
    return drawn("search", "The search", about, figure)


def scaling_law(story: Story) -> Markup | None:
    """Of the forecast."""
    if not story.law:
        return None
    about = "Loss against compute: runs of the ladder by their size, the law through them, and what it says of this run."
    return drawn("law", "The forecast", about, pictures.scaling_law(story.law))
