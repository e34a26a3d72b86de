"""What a run's model predicts of a few validation samples, as pictures and small plots on its page."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

import numpy as np
from markupsafe import Markup

from foundray.runs.reconstructions import Reconstruction
from foundray.wording.rasters import picture_png, points, spans

PLOT = 640, 120
"""Width and height of a plot, in its own units."""
DRAWN = 600
"""Most points of a curve."""


@dataclass(frozen=True)
class Shown:
    """One picture, and what it is."""

    label: str
    picture: Markup


def reconstructed(by_step: Mapping[int, list[Reconstruction]]) -> list[list[Shown]]:
    """For each sample its pictures, in order: input, what the model is shown, and its predictions by step."""
    if not by_step:
        return []
    count = min(len(found) for found in by_step.values())
    return [_sample(number, {step: found[number] for step, found in by_step.items()}) for number in range(count)]


def _sample(number: int, by_step: Mapping[int, Reconstruction]) -> list[Shown]:
    first, name = next(iter(by_step.values())), f"Sample {number + 1}"
    if first.input.ndim == 1:
        return [
            Shown(f"step {step:,}", _plot(one, f"{name}: input and prediction at step {step:,}"))
            for step, one in by_step.items()
        ]
    shown = [Shown("input", _image(first.input, f"{name}: input"))]
    if first.shown is not None:
        shown.append(Shown("what the model sees", _image(first.shown, f"{name}: what the model sees")))
    for step, one in by_step.items():
        shown.append(Shown(f"step {step:,}", _image(one.prediction, f"{name}: prediction at step {step:,}")))
    return shown


def _image(values: np.ndarray, about: str) -> Markup:
    data = base64.b64encode(picture_png(values)).decode()
    height, width = values.shape[:2]
    return Markup(f'<img alt="{escape(about)}" width="{width}" height="{height}" src="data:image/png;base64,{data}">')


def _plot(one: Reconstruction, about: str) -> Markup:
    """The input and what is predicted as lines, with a shade where the input is hidden from the model."""
    width, height = PLOT
    every = -(-len(one.input) // DRAWN)
    curves = one.input[::every], one.prediction[::every]
    hidden = None if one.shown is None else ~np.isfinite(one.shown[::every])
    scale = width / len(curves[0])
    parts = [
        f'<rect class="unseen" x="{start * scale:.1f}" y="0" width="{(stop - start) * scale:.1f}" height="{height}"/>'
        for start, stop in spans(hidden)
    ]
    for curve, name in zip(curves, ("given", "predicted"), strict=True):
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points(curve, curves, width, height))
        parts.append(f'<polyline class="{name}" points="{line}"/>')
    return Markup(f'<svg role="img" aria-label="{escape(about)}" viewBox="0 0 {width} {height}">{"".join(parts)}</svg>')
