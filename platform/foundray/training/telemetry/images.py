"""The reconstructions of an evaluation as TensorBoard's images: input, what the model is shown of it, and prediction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from foundray.runs.reconstructions import Reconstruction, read_reconstructions
from foundray.storage import Store
from foundray.wording.rasters import curves_png, side_by_side

COLOURS = 4
"""TensorBoard's number for red, green, blue and opacity."""


def image_events(run: Store, step: int) -> Iterator[Any]:
    """An event with an image for each sample that the evaluation after a step kept; none if its file cannot be read."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    for number, one in enumerate(read_reconstructions(run, step), 1):
        png, height, width = _drawn(one)
        image = Summary.Image(height=height, width=width, colorspace=COLOURS, encoded_image_string=png)
        yield Event(summary=Summary(value=[Summary.Value(tag=f"reconstructions/{number}", image=image)]), step=step)


def _drawn(one: Reconstruction) -> tuple[bytes, int, int]:
    """(PNG, height, width)"""
    if one.input.ndim == 1:
        return curves_png(one.input, one.prediction, None if one.shown is None else ~np.isfinite(one.shown))
    return side_by_side([each for each in (one.input, one.shown, one.prediction) if each is not None])
