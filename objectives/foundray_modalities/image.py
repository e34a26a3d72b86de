"""Images, cut into square patches: files of any kind that Pillow reads, or idx files (MNIST's).

Only the first frame of an animation or a file of pages is used; a quarantine line gives the number of frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image as Pillow
from pydantic import Field, PositiveInt, model_validator

from foundray.contract import Units, UnitShape, Unreadable, Values
from foundray_modalities import idx, picture

MOST_PIXELS = 2**22
"""Most pixels of a picture that is enlarged as a whole, after enlarging (judgement: 16 MiB)."""
MOST_TO_ONE = 16
"""Aspect ratio up to which any picture is enlarged as a whole (judgement: wider than any panorama)."""


class Image(Values):
    gives: ClassVar[str] = "patches"
    public: ClassVar[tuple[str, ...]] = ("DINOv2", "MAE", "I-JEPA")
    endings: ClassVar[tuple[str, ...]] = (
        ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff",
        ".pbm", ".pgm", ".ppm", ".pnm", "idx3-ubyte",
    )  # fmt: skip

    size: PositiveInt
    """Height and width of every image, in pixels: scaled by its shorter side, then cropped to the middle."""
    patch: PositiveInt
    """Height and width of a patch, in pixels; must divide `size`."""
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for red, green and blue."""
    flip: bool = False
    """Whether half of the samples are mirrored."""
    shift: float = Field(default=0.0, ge=0, lt=1)
    """Largest random shift, as a fraction of `size`; the border's colour fills the gap."""
    crop: float = Field(default=1.0, gt=0, le=1)
    """Smallest random square crop, as a fraction of the picture's area; it is then scaled to `size`."""
    light: float = Field(default=0.0, ge=0, lt=1)
    """Largest random change of contrast and of brightness, as a fraction of their range."""

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
        """Yield a picture as it is, or, if it is unusual (see `picture`), a PNG of its converted pixels."""
        if idx.is_idx(content) or "idx3-ubyte" in name.lower():
            for position, pixels in idx.images(content):
                found = pixels if isinstance(pixels, Unreadable) else {"image": picture.png(Pillow.fromarray(pixels))}
                yield position, found
            return
        opened = picture.opened(content)
        plain, note = picture.plain(opened)
        yield "byte 0", {"image": content if plain is None else picture.png(plain)}
        if note:
            yield "byte 0", Unreadable(note, 0, "image")
        if (frames := picture.frames(opened)) != 1:
            yield "frame 2", Unreadable(f"only the first of {frames or 'its'} frames is used", 0, "frame")

    def units(self, row: dict[str, Any], length: int, rng: np.random.Generator | None) -> Units:
        image = picture.in_mode(picture.opened(row["image"]), "L" if self.channels == 1 else "RGB")
        if rng is not None and self.crop < 1:
            image = _random_crop(image, self.crop, rng)
        pixels = np.asarray(_squared(image, self.size), np.float32).reshape(self.size, self.size, self.channels) / 127.5 - 1
        if rng is not None:
            pixels = self._augmented(pixels, rng)
        side, patch = self.size // self.patch, self.patch
        patches = pixels.reshape(side, patch, side, patch, self.channels).transpose(0, 2, 1, 3, 4)
        return Units(patches.reshape(side * side, -1))

    def picture(self, x: np.ndarray) -> np.ndarray:
        side, patch = self.size // self.patch, self.patch
        pixels = x.reshape(side, side, patch, patch, self.channels).transpose(0, 2, 1, 3, 4)
        shown = np.clip(pixels.reshape(self.size, self.size, self.channels) / 2 + 0.5, 0, 1)
        return shown[..., 0] if self.channels == 1 else shown

    def _augmented(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.flip and rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        if self.shift:
            most = int(self.shift * self.size)
            down, right = rng.integers(0, 2 * most + 1, 2)
            padded = np.pad(pixels, ((most, most), (most, most), (0, 0)), "edge")
            pixels = padded[down : down + self.size, right : right + self.size]
        if self.light:
            contrast, brightness = rng.uniform(-self.light, self.light, 2)
            pixels = np.clip(pixels * (1 + contrast) + brightness, -1, 1).astype(np.float32)
        return pixels


def _random_crop(picture: Pillow.Image, least: float, rng: np.random.Generator) -> Pillow.Image:
    """Random square of at least the fraction `least` of the middle square's area (Szegedy et al. 2015, with one aspect)."""
    whole = _squared(picture, min(picture.size))
    side = max(1, round(whole.width * rng.uniform(least, 1) ** 0.5))
    left, top = (int(rng.integers(0, whole.width - side + 1)) for _ in range(2))
    return whole.crop((left, top, left + side, top + side))


def _squared(picture: Pillow.Image, size: int) -> Pillow.Image:
    """Middle square, scaled to `size`."""
    if picture.size == (size, size):
        return picture
    if min(picture.size) < size:
        picture = _shortened(picture, size)
    scale = size / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    left, top = (width - size) // 2, (height - size) // 2
    return picture.resize((width, height), Pillow.Resampling.BICUBIC).crop((left, top, left + size, top + size))


def _shortened(picture: Pillow.Image, size: int) -> Pillow.Image:
    """Middle of a picture that is too long to be enlarged: 1 x 65,000 pixels would need 9 GiB for a size of 224."""
    most = min(picture.size) * max(MOST_TO_ONE, MOST_PIXELS // size**2)
    width, height = (min(side, most) for side in picture.size)
    if (width, height) == picture.size:
        return picture
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))
