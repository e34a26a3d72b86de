"""Pictures: decodes bytes to pixels, and converts pixels of any kind to upright ones of 8 bits on white.

Most files are plain already: grey, palette, RGB or CMYK, at 8 bits each. The others are converted once, when data is prepared:

- Integers of 12 or 16 bits keep their upper 8 bits. Wider or signed integers, and floats, have no defined range: it is the
  first of 0 to 1 (floats only), 0 to 255 and 0 to 65,535 (0 to 32,767 for signed 16-bit integers) that contains all values of
  the picture; if none does, the picture's smallest value becomes black, and its largest white.
- Transparent pixels are laid on white, and the EXIF orientation is applied.
- L*a*b* becomes sRGB. Embedded colour profiles are not applied.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from foundray.contract import Unreadable

PLAIN = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Pillow's modes that become grey or RGB without conversion here, if nothing is transparent."""
GREY = ("1", "L", "LA", "La")
NUMBERS = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes with one number of more than 8 bits per pixel."""
DRAWN = ("EPS", "WMF")
"""Vector formats, which another program would have to render."""
BELONGING = ("MPO", "ICO", "CUR", "ICNS")
"""Formats whose further frames belong to the first: a preview, the other eye, another size."""
PIXELS_AT_ONCE = 2**20
"""Numbers converted together, to save memory."""
ORIENTATION = 0x0112
"""EXIF tag."""
TURNS = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
"""Transposition that undoes each orientation but the upright one."""
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
"""TIFF tags."""


def opened(content: bytes) -> Pillow.Image:
    """Decode the first frame. Raises Unreadable."""
    with _as_unreadable(), warnings.catch_warnings():
        warnings.simplefilter("error", Pillow.DecompressionBombWarning)
        picture = Pillow.open(io.BytesIO(content))
        if picture.format in DRAWN:
            raise Unreadable(f"a vector drawing ({picture.format}), not a picture of pixels", unit="image")
        picture.load()
        if picture.format == "PNG" and "transparency" in picture.info:
            picture.info["transparency"] = _in_eight_bits(picture.info["transparency"], picture.mode, depth=content[24])
    return picture


def in_mode(picture: Pillow.Image, mode: str) -> Pillow.Image:
    """Convert to `L` or `RGB`. Raises Unreadable."""
    with _as_unreadable():
        try:
            return picture.convert(mode)
        except ValueError:  # L*a*b*, for example, becomes grey by way of RGB
            return picture.convert("RGB").convert(mode)


def plain(picture: Pillow.Image) -> tuple[Pillow.Image | None, str]:
    """(an unusual picture as `L` or `RGB`, or None for a plain one; note about a range taken from its values, or empty).

    Raises Unreadable.
    """
    found, note = None, ""
    with _as_unreadable():
        if picture.mode in NUMBERS:
            found, note = _scaled(picture)
        elif picture.has_transparency_data:
            found = _on_white(picture)
        turn = TURNS.get(_orientation(picture))
        if found is None and (turn is not None or picture.mode not in PLAIN):
            found = in_mode(picture, "L" if picture.mode in GREY else "RGB")
        if found is not None and turn is not None:
            found = found.transpose(turn)
    return found, note


def png(picture: Pillow.Image) -> bytes:
    """Encode the pixels of a picture of mode `L` or `RGB`, without metadata."""
    picture.info = {}
    picture.save(file := io.BytesIO(), "png")
    return file.getvalue()


def frames(picture: Pillow.Image) -> int:
    """Number of frames in the file; 0 if a damaged one stops the count. The picture's pixels are undefined afterwards."""
    if picture.format in BELONGING:
        return 1
    try:
        return int(getattr(picture, "n_frames", 1))
    except Exception:
        return 0


@contextmanager
def _as_unreadable() -> Iterator[None]:
    """Turn whatever Pillow raises into Unreadable: Pillow has no specific error for a damaged file."""
    try:
        yield
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable("not an image of a known kind", unit="image") from None
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        count = re.search(r"\d+", str(error))
        pixels = f"{int(count[0]):,} pixels" if count else "too many pixels"
        raise Unreadable(f"it has {pixels}, and at most {Pillow.MAX_IMAGE_PIXELS:,} are read", unit="image") from None
    except OSError as error:
        raise Unreadable(f"not a whole image: {_sentence(error)}", unit="image") from None
    except Exception as error:
        raise Unreadable(f"not a whole image: {_sentence(error)} ({type(error).__name__})", unit="image") from None


def _sentence(error: Exception) -> str:
    return (str(error).strip() or "Pillow does not say why").splitlines()[0][:200]


def _in_eight_bits(transparent: object, mode: str, depth: int) -> object:
    """Scale a PNG's transparent value to 8 bits if Pillow scales only the pixels."""
    if mode == "L" and isinstance(transparent, int) and depth < 8:
        return transparent * 255 // (2**depth - 1)
    if mode == "RGB" and isinstance(transparent, tuple) and depth == 16:
        return tuple(value >> 8 for value in transparent)
    return transparent


def _orientation(picture: Pillow.Image) -> int:
    """EXIF orientation; 1, upright, if EXIF cannot be read."""
    try:
        return int(picture.getexif().get(ORIENTATION, 1))
    except Exception:
        return 1


def _on_white(picture: Pillow.Image) -> Pillow.Image | None:
    """Lay a picture on white; None if it is fully opaque."""
    layer = picture.convert("LA") if picture.mode == "La" else picture
    layer = layer if layer.mode == "RGBA" else layer.convert("RGBA")
    alpha = layer.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return None
    white = Pillow.new("RGB", picture.size, (255, 255, 255))
    white.paste(layer, mask=alpha)
    return white.convert("L") if picture.mode in GREY else white


def _scaled(picture: Pillow.Image) -> tuple[Pillow.Image, str]:
    """(numbers as 8-bit grey, note if the picture's own values are black and white). Raises Unreadable."""
    values = np.asarray(picture)
    tags = getattr(picture, "tag_v2", {})
    bits, signed = tags.get(BITS_PER_SAMPLE, (16,))[0], tags.get(SAMPLE_FORMAT, (1,))[0] == 2
    if picture.mode == "I" and tags and bits == 32 and not signed:
        values = values.view(np.uint32)  # Pillow has no unsigned 32-bit mode
    if count := values.size - int(np.isfinite(values).sum()):
        raise Unreadable(f"{count:,} of its {values.size:,} pixels are not finite numbers", unit="image")
    least, most = float(values.min()), float(values.max())
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
        ranges = [bits]
    else:
        ranges = [0] * (picture.mode == "F") + [8, 15 if signed and bits == 16 else 16]
    found = next((bits for bits in ranges if least >= 0 and most <= max(1, 2**bits - 1)), None)
    # Convert some rows at a time: float64 takes eight times the memory of grey.
    grey = np.empty(values.shape, np.uint8)
    rows = max(1, PIXELS_AT_ONCE // values.shape[1])
    for start in range(0, len(values), rows):
        part = values[start : start + rows].astype(np.float64)
        if found:  # the upper 8 bits, as Pillow does for colours
            grey[start : start + rows] = part * 2.0 ** (8 - found)
        elif found == 0:
            grey[start : start + rows] = np.rint(part * 255)
        elif most > least:
            grey[start : start + rows] = np.rint((part - least) * (255 / (most - least)))
        else:
            grey[start : start + rows] = 0
    if tags.get(PHOTOMETRIC) == 0:
        grey = 255 - grey
    if isinstance(clear := picture.info.get("transparency"), int):
        grey[values == clear] = 255
    note = f"its values of {least:g} to {most:g} have no defined range: the smallest is black, the largest white"
    return Pillow.fromarray(grey), note if found is None else ""
