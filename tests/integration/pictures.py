"""A folder of pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def images(folder: Path) -> Path:
    """Bright squares on dark ground; one file is cut off."""
    (made := folder / "images").mkdir()
    for number in range(150):
        rng = np.random.default_rng(number)
        pixels = np.full((16, 16), 30, np.uint8)
        down, right = rng.integers(0, 10, 2)
        pixels[down : down + 6, right : right + 6] = rng.integers(150, 250)
        Image.fromarray(pixels).save(file := io.BytesIO(), "png")
        (made / f"{number:03d}.png").write_bytes(file.getvalue()[: -40 if number == 7 else None])
    return made
