"""Arrays as PNG pictures: pictures pixel by pixel, and curves as drawings. Pillow is imported when they are called."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

CURVE = 640, 160
"""Width and height of a drawing, in pixels."""
GREY, ORANGE, SHADE = (90, 96, 107), (192, 74, 0), (226, 228, 233)
"""Colours of the input, of what is predicted, and behind what is hidden; they are seen on white and on black."""


def picture_png(values: np.ndarray) -> bytes:
    """PNG of a picture [height, width] or [height, width, 3] from 0 to 1; NaN is transparent."""
    return _png(_image(values))


def side_by_side(pictures: Sequence[np.ndarray]) -> tuple[bytes, int, int]:
    """(PNG, height, width) of pictures of one size, beside each other, or below each other if they are wide."""
    images = [_image(values) for values in pictures]
    width, height = images[0].size
    down = width > 2 * height
    return _tiled(images, (0, height + 2) if down else (width + 2, 0))


def _tiled(images: Sequence[Image.Image], offset: tuple[int, int]) -> tuple[bytes, int, int]:
    from PIL import Image

    (width, height), (right, down), last = images[0].size, offset, len(images) - 1
    whole = Image.new("RGBA", (width + last * right, height + last * down))
    for number, image in enumerate(images):
        whole.paste(image, (number * right, number * down))
    return _png(whole), whole.height, whole.width


def curves_png(values: np.ndarray, predicted: np.ndarray, hidden: np.ndarray | None) -> tuple[bytes, int, int]:
    """(PNG, height, width) of two curves [N], with a shade where `hidden` [N] bool."""
    from PIL import Image, ImageDraw

    width, height = CURVE
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    for start, stop in spans(hidden):
        pen.rectangle((start * width / len(values), 0, stop * width / len(values), height), fill=SHADE)
    for curve, colour in ((values, GREY), (predicted, ORANGE)):
        pen.line(points(curve, (values, predicted), width, height), fill=colour, width=2)
    return _png(image), height, width


def points(curve: np.ndarray, beside: Sequence[np.ndarray], width: float, height: float) -> list[tuple[float, float]]:
    """(x, y) of a curve's values, so that all curves `beside` it fit a drawing of this size, y downwards."""
    all_values = np.concatenate(beside)
    finite = all_values[np.isfinite(all_values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    room = 0.05 * height
    scale = (height - 2 * room) / (high - low or 1.0)
    return [
        ((at + 0.5) * width / len(curve), height - room - (float(value) - low) * scale)
        for at, value in enumerate(curve)
        if np.isfinite(value)
    ]


def spans(hidden: np.ndarray | None) -> list[tuple[int, int]]:
    """[start, stop) of each stretch of `hidden` [N] bool."""
    if hidden is None:
        return []
    edges = np.flatnonzero(np.diff(np.concatenate([[False], hidden, [False]]).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _image(values: np.ndarray) -> Image.Image:
    from PIL import Image

    known = np.isfinite(values)
    levels = np.round(np.where(known, np.clip(values, 0, 1), 0) * 255).astype(np.uint8)
    if values.ndim == 2:
        levels, known = np.repeat(levels[..., None], 3, -1), known[..., None]
    alpha = np.where(known.all(-1, keepdims=True), 255, 0).astype(np.uint8)
    return Image.fromarray(np.concatenate([levels, alpha], -1), "RGBA")


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
