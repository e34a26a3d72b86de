"""The picture of a run over time: loss, workers and throughput, and every incident on one axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from foundray.reports.panels import (
    ALERT,
    INK,
    PALE,
    SOFT,
    WIDE,
    Format,
    Picture,
    both,
    bound,
    curve,
    legend,
    nothing,
    plain,
    titled,
    validation,
)
from foundray.reports.series import throughput, worlds
from foundray.reports.story import Story
from foundray.reports.svg import part
from foundray.wording.words import count, duration

MARKS = {"start": ">", "fault": "v", "change": "D", "storage": "s", "numbers": "X", "stop": "P", "end": "o"}
"""Marker of each sort of incident, recognisable by its shape alone."""


def timeline(story: Story) -> Picture:
    """Loss, workers and throughput over running time, and every incident on it."""
    tips = {f"incident-{number}": f"{number}. {one.title}" for number, one in enumerate(story.incidents, 1)}
    about = (
        f"Three panels over {duration(story.length)} of running time: training loss, workers, tokens per second. "
        f"{len(story.incidents)} numbered marks refer to the table below."
    )
    return both("timeline", "The run over time", about, lambda form: _timeline(story, form), tips)


def _timeline(story: Story, form: Format) -> Figure:
    wide = form is WIDE
    figure = Figure((form.width, 5.4 if wide else 5.6), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.03, hspace=0.02)  # type: ignore[union-attr, call-arg]
    strip, top, middle, bottom = figure.subplots(4, 1, sharex=True, height_ratios=(0.42, 2.6, 0.8, 1))
    panels = (top, middle, bottom)
    for axes in panels:
        plain(axes)
    _loss_over_time(top, story, form)
    moments, sizes = worlds(story.events, story.clock)
    titled(middle, "Workers")
    if moments:
        moments, sizes = [*moments, story.length], [*sizes, sizes[-1]]
        middle.fill_between(moments, sizes, step="post", color=PALE, linewidth=0)
        middle.plot(moments, sizes, drawstyle="steps-post", color=INK, linewidth=1.4, gid=part("workers"))
    middle.set_ylim(0, max([*sizes, 1]) * 1.15)
    middle.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    titled(bottom, "Tokens per second, of steps that count")
    if story.metrics:
        edges, rates = throughput(story.metrics, story.clock, story.spec.tokens_per_step)
        bottom.stairs(rates, edges, fill=True, color=PALE)
        bottom.stairs(rates, edges, color=INK, linewidth=1, gid=part("throughput"))
    bottom.set_ylim(0)
    bottom.yaxis.set_major_locator(MaxNLocator(4))
    bottom.yaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value) if value else "0"))
    shown = max(story.length - story.begun, 1e-3 * story.length)
    bottom.set_xlim(story.begun - 0.005 * shown, story.begun + 1.005 * shown)
    unit, scale = next((name, size) for name, size in _UNITS if shown >= 3 * size or size == 1)
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

    def tick_values(self, vmin: float, vmax: float) -> Any:
        return np.asarray(super().tick_values(vmin / self.scale, vmax / self.scale)) * self.scale


def _loss_over_time(axes: Axes, story: Story, form: Format) -> None:
    titled(axes, f"Loss, {story.loss_unit}")
    if not story.metrics:
        nothing(axes)
        return
    moments = np.maximum.accumulate(np.asarray(story.clock.at([record["time"] for record in story.metrics])))
    losses = np.array([record["loss"] for record in story.metrics])
    stops = [float(story.clock.at(one.time + one.still / 2)) for one in story.incidents if one.still]
    curve(axes, moments, losses, form, stops)
    if found := [(float(story.clock.at(event["time"])), value) for event, value in story.evaluations]:
        validation(axes, [at for at, _ in found], [value for _, value in found])
    bound(axes, losses, [value for _, value in found])
    legend(axes, form)


def _marks(strip: Axes, panels: Sequence[Axes], story: Story, form: Format) -> None:
    """Draw a strip above the panels with a marker and a number for each incident, and lines through the panels."""
    strip.set_ylim(0, 1)
    strip.set_axis_off()
    moments: dict[bool, list[float]] = {True: [], False: []}
    places = [max(float(story.clock.at(one.time)), story.begun) for one in story.incidents]  # before: at the left edge
    for number, (at, one) in enumerate(zip(places, story.incidents, strict=True), 1):
        colour = ALERT if one.alarming else SOFT
        strip.plot(
            [at], [0.2], MARKS[one.sort], color=colour, markersize=6, markeredgewidth=0, clip_on=False,
            gid=part(f"incident-{number}"),
        )  # fmt: skip
        moments[one.alarming].append(at)
        moves = float(story.clock.at(one.time)) + one.still
        if one.still > story.length / 2000 and moves > at:
            for axes in panels:
                axes.axvspan(at, moves, color=PALE, alpha=0.7, linewidth=0, zorder=0)
    for at, text in numbered(places, form.character * (story.length - story.begun)):
        strip.text(at, 0.62, text, ha="center", va="bottom", fontsize=9, color=SOFT, fontweight="bold")
    for axes in panels:
        _lines(axes, moments[True], ALERT, (0, (4, 2)))
        _lines(axes, moments[False], SOFT, (0, (1, 2)))


def numbered(moments: Sequence[float], character: float) -> list[tuple[float, str]]:
    """(position, text) of the incidents' numbers, from 1: `3`, or `3–5` if single ones would overlap.

    `character` is the width of a character, on the scale of the moments.
    """
    groups: list[tuple[int, int]] = []

    def label(group: tuple[int, int]) -> tuple[float, str]:
        first, last = group
        return (moments[first - 1] + moments[last - 1]) / 2, str(first) if first == last else f"{first}–{last}"

    for number in range(1, len(moments) + 1):
        groups.append((number, number))
        while len(groups) > 1:
            (left, before), (right, after) = label(groups[-2]), label(groups[-1])
            if right - left > character * (1 + (len(before) + len(after)) / 2):
                break
            groups[-2:] = [(groups[-2][0], groups[-1][1])]
    return [label(group) for group in groups]


def _lines(axes: Axes, at: Sequence[float], colour: str, style: tuple[int, tuple[int, int]]) -> None:
    """Draw vertical lines through the whole panel, as one path."""
    x = np.repeat(at, 3)
    y = np.tile([0.0, 1.0, np.nan], len(at))
    axes.plot(x, y, color=colour, linewidth=0.8, linestyle=style, zorder=1, transform=axes.get_xaxis_transform())
