"""Images, cut into square patches. Files of any kind that Pillow reads, or idx files (the format of MNIST)."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError
from pydantic import Field, PositiveInt, model_validator

from foundray.contract import Units, UnitShape, Unreadable, Values

IDX_BYTES = 8
"""The idx type of unsigned bytes."""


class Image(Values):
    gives: ClassVar[str] = "patches"
    public: ClassVar[tuple[str, ...]] = ("DINOv2", "MAE", "I-JEPA")
    endings: ClassVar[tuple[str, ...]] = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", "idx3-ubyte")

    size: PositiveInt
    """Height and width, in pixels, that every image is brought to: scaled by its shorter side, and cut in the middle."""
    patch: PositiveInt
    """Height and width of a patch, in pixels; it divides the size."""
    channels: Literal[1, 3] = 3
    """Grey, or red, green and blue."""
    flip: bool = False
    """Whether half of the samples are mirrored."""
    shift: float = Field(default=0.0, ge=0, lt=1)
    """Largest random shift, as a part of the size; what comes in at the border is the border's own colour."""
    crop: float = Field(default=1.0, gt=0, le=1)
    """Smallest part of the picture's area that a random square cut has, which is then scaled to the size."""
    light: float = Field(default=0.0, ge=0, lt=1)
    """Largest random change of contrast and of brightness, as a part of their range."""

    @model_validator(mode="after")
    def _divides(self) -> Image:
        if self.size % self.patch:
            raise ValueError(f"patch {self.patch} does not divide size {self.size}")
        return self

    @property
    def shape(self) -> UnitShape:
        side = self.size // self.patch
        return UnitShape(width=self.patch**2 * self.channels, grid=(side, side))

    def rows(self, name: str, content: bytes, length: int) -> Iterator[tuple[str, dict[str, Any] | Unreadable]]:
        if name.lower().removesuffix(".gz").endswith("idx3-ubyte"):
            for index, pixels in enumerate(_idx_images(content)):
                file = io.BytesIO()
                Pillow.fromarray(pixels).save(file, "png")
                yield f"image {index}", {"image": file.getvalue()}
        else:
            _opened(content)
            yield "byte 0", {"image": content}

    def units(self, row: dict[str, Any], length: int, chance: np.random.Generator | None) -> Units:
        picture = _opened(row["image"]).convert("L" if self.channels == 1 else "RGB")
        if chance is not None and self.crop < 1:
            picture = _cut(picture, self.crop, chance)
        pixels = np.asarray(_squared(picture, self.size), np.float32).reshape(self.size, self.size, self.channels) / 127.5 - 1
        if chance is not None:
            pixels = self._moved(pixels, chance)
        side, patch = self.size // self.patch, self.patch
        patches = pixels.reshape(side, patch, side, patch, self.channels).transpose(0, 2, 1, 3, 4)
        return Units(patches.reshape(side * side, -1))

    def _moved(self, pixels: np.ndarray, chance: np.random.Generator) -> np.ndarray:
        if self.flip and chance.random() < 0.5:
            pixels = pixels[:, ::-1]
        if self.shift:
            most = int(self.shift * self.size)
            down, right = chance.integers(0, 2 * most + 1, 2)
            padded = np.pad(pixels, ((most, most), (most, most), (0, 0)), "edge")
            pixels = padded[down : down + self.size, right : right + self.size]
        if self.light:
            contrast, brightness = chance.uniform(-self.light, self.light, 2)
            pixels = np.clip(pixels * (1 + contrast) + brightness, -1, 1).astype(np.float32)
        return pixels


def _opened(content: bytes) -> Pillow.Image:
    """Raises Unreadable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Pillow.DecompressionBombWarning)
            picture = Pillow.open(io.BytesIO(content))
            picture.load()
    except UnidentifiedImageError:
        raise Unreadable("not an image of a known kind") from None
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise Unreadable(f"not a whole image: {error}") from None
    return picture


def _cut(picture: Pillow.Image, least: float, chance: np.random.Generator) -> Pillow.Image:
    """A random square of an image's middle square, of at least a part of its area (Szegedy et al. 2015, of one aspect)."""
    whole = _squared(picture, min(picture.size))
    side = max(1, round(whole.width * chance.uniform(least, 1) ** 0.5))
    left, top = (int(chance.integers(0, whole.width - side + 1)) for _ in range(2))
    return whole.crop((left, top, left + side, top + side))


def _squared(picture: Pillow.Image, size: int) -> Pillow.Image:
    if picture.size == (size, size):
        return picture
    scale = size / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    left, top = (width - size) // 2, (height - size) // 2
    return picture.resize((width, height), Pillow.Resampling.BICUBIC).crop((left, top, left + size, top + size))


def _idx_images(content: bytes) -> np.ndarray:
    """[N, height, width] uint8. Raises Unreadable."""
    if len(content) < 16:
        raise Unreadable("not an idx file of images: it is shorter than its header")
    zero, kind, axes, count, height, width = struct.unpack(">HBBIII", content[:16])
    if (zero, kind, axes) != (0, IDX_BYTES, 3):
        raise Unreadable("not an idx file of images: its header says so")
    if len(content) != 16 + count * height * width:
        raise Unreadable(f"its header promises {count} images of {height}x{width}, and it holds {len(content) - 16} bytes")
    return np.frombuffer(content, np.uint8, offset=16).reshape(count, height, width)
