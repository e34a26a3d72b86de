"""The common parts of the page's pictures: two formats, one style, and shared elements of panels.

Pictures are readable without colour: series differ by weight, line and marker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foundray.reports.series import POINTS, parted, smoothed, thinned, window
from foundray.reports.svg import inline, part
from foundray.tuning.pictures import COLOURS

INK, SOFT, FAINT, PALE = "#000000", "#555555", "#999999", "#dddddd"
RAW = "#8c8c8c"
"""Every step's loss: a grey that is seen on white and on black paper, behind the mean."""
MAIN, ALERT = COLOURS[0], COLOURS[1]
DOTS = 60
"""Steps up to which each has a dot."""
STYLE: Any = {
    "font.size": 9.5, "axes.titlesize": 9.5, "axes.labelsize": 9.5,
    "axes.edgecolor": FAINT, "axes.linewidth": 0.8, "xtick.color": FAINT, "ytick.color": FAINT, "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT, "axes.labelcolor": SOFT, "legend.fontsize": 9, "path.simplify": False,
}  # fmt: skip


@dataclass(frozen=True)
class Format:
    name: str
    width: float
    """Inches, of 72 units of the SVG."""
    character: float
    """Share of the width that a small figure takes."""
    points: int
    """Most points of a series."""


WIDE, NARROW = Format("wide", 9.6, 0.009, POINTS), Format("narrow", 3.9, 0.022, POINTS // 3)


@dataclass(frozen=True)
class Picture:
    key: str
    wide: Markup
    narrow: Markup


def both(key: str, title: str, about: str, draw: Callable[[Format], Figure], tips: Mapping[str, str] | None = None) -> Picture:
    """A picture in both formats; `tips` are texts shown over its parts."""
    made = []
    for form in (WIDE, NARROW):
        with matplotlib.rc_context(STYLE):
            made.append(inline(draw(form), f"{key}-{form.name}", title, about, tips))
    return Picture(key, *made)


def curve(axes: Axes, x: np.ndarray, losses: np.ndarray, form: Format, stops: Sequence[float] = ()) -> None:
    """Draw every step's loss, faint, and its running mean; the lines are broken at `stops`.

    A run too short for a mean has its steps drawn strongly, the first few as dots.
    """
    width = window(len(losses))
    raw = parted(*thinned(x, losses, form.points), stops)
    if width == 1:
        marker = "o" if len(losses) <= DOTS else ""
        axes.plot(*raw, color=MAIN, linewidth=2, marker=marker, markersize=4, label="each step", gid=part("raw"))
    else:
        axes.plot(*raw, color=RAW, linewidth=0.8, label="each step", gid=part("raw"))
        mean = thinned(x, smoothed(losses, width), form.points // 2)
        axes.plot(*parted(*mean, stops), color=MAIN, linewidth=2, label=f"mean of {width:,} steps", gid=part("mean"))


def validation(axes: Axes, x: Sequence[float], losses: Sequence[float]) -> None:
    axes.plot(
        x, losses, color=INK, marker="o", markersize=5, markerfacecolor="#ffffff", linestyle="", label="validation",
        zorder=5, clip_on=False, gid=part("validation"),
    )  # fmt: skip


def bound(axes: Axes, losses: np.ndarray, marked: Sequence[float]) -> None:
    """Let single high losses lie above the panel, with a note, and use a log scale for losses that span decades."""
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


def plain(axes: Axes) -> Axes:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def titled(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontweight="bold", color=INK, pad=5)


def legend(axes: Axes, form: Format) -> None:
    """Draw the legend beside the title, or in the corner that falling losses leave free."""
    if form is WIDE:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, ncols=4, handlelength=1.8, borderaxespad=0.2)
    else:
        axes.legend(loc="upper right", facecolor="#ffffff", edgecolor="#ffffff", handlelength=1.8, borderaxespad=0)


def nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "no step is recorded yet", transform=axes.transAxes, ha="center", va="center", color=SOFT)
