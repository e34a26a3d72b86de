"""Pictures: encoded bytes become pixels, and pixels of any kind become upright ones of 8 bits on white.

Most files are plain already: grey, a palette, red, green and blue, or the inks of print, at 8 bits each. The others are
converted once, when data is prepared:

- Of whole numbers of 12 or 16 bits the upper 8 are taken. Wider or signed ones, and floats, have no range of their own: it is
  the first of 0 to 1 (floats only), 0 to 255 and 0 to 65,535 (0 to 32,767 for signed ones of 16 bits) that holds all values
  of the picture; if none does, the picture's own least value becomes black, and its greatest white.
- What is transparent is laid on white, and EXIF's orientation is applied.
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
"""Pillow's modes that become grey or RGB as they are, if nothing is transparent."""
GREY = ("1", "L", "LA", "La")
NUMBERS = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of one number per pixel that is wider than 8 bits."""
DRAWN = ("EPS", "WMF")
"""Formats of drawings: another program would have to draw them."""
BELONGING = ("MPO", "ICO", "CUR", "ICNS")
"""Formats whose further frames belong to the first: a preview, the other eye, another size."""
PIXELS_AT_ONCE = 2**20
"""Numbers that are converted together, so that this takes little memory."""
ORIENTATION = 0x0112
"""The tag of EXIF."""
TURNS = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
"""Of each orientation but the upright one, what undoes it."""
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
"""Tags of TIFF."""


def opened(content: bytes) -> Pillow.Image:
    """The first frame, decoded. Raises Unreadable."""
    with _as_unreadable(), warnings.catch_warnings():
        warnings.simplefilter("error", Pillow.DecompressionBombWarning)
        picture = Pillow.open(io.BytesIO(content))
        if picture.format in DRAWN:
            raise Unreadable(f"a drawing ({picture.format}), and not a picture of pixels", unit="image")
        picture.load()
        if picture.format == "PNG" and "transparency" in picture.info:
            picture.info["transparency"] = _in_eight_bits(picture.info["transparency"], picture.mode, depth=content[24])
    return picture


def in_mode(picture: Pillow.Image, mode: str) -> Pillow.Image:
    """As `L` or `RGB`. Raises Unreadable."""
    with _as_unreadable():
        try:
            return picture.convert(mode)
        except ValueError:  # L*a*b*, for one, becomes grey by way of RGB
            return picture.convert("RGB").convert(mode)


def plain(picture: Pillow.Image) -> tuple[Pillow.Image | None, str]:
    """(an unusual picture as `L` or `RGB`, or None for one that is plain; what was decided by its values, or nothing).

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
    """A picture of mode `L` or `RGB`: its pixels, and nothing else."""
    picture.info = {}
    picture.save(file := io.BytesIO(), "png")
    return file.getvalue()


def frames(picture: Pillow.Image) -> int:
    """Number of frames in the file, 0 if a damaged one stops the count. The picture's pixels are undefined afterwards."""
    if picture.format in BELONGING:
        return 1
    try:
        return int(getattr(picture, "n_frames", 1))
    except Exception:
        return 0


@contextmanager
def _as_unreadable() -> Iterator[None]:
    """Whatever Pillow raises becomes Unreadable: it has no error of its own for a damaged file."""
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
    """PNG's transparent value in the bits that Pillow brings pixels to, where it leaves the value in the file's own."""
    if mode == "L" and isinstance(transparent, int) and depth < 8:
        return transparent * 255 // (2**depth - 1)
    if mode == "RGB" and isinstance(transparent, tuple) and depth == 16:
        return tuple(value >> 8 for value in transparent)
    return transparent


def _orientation(picture: Pillow.Image) -> int:
    """1 for upright, and where EXIF cannot be read."""
    try:
        return int(picture.getexif().get(ORIENTATION, 1))
    except Exception:
        return 1


def _on_white(picture: Pillow.Image) -> Pillow.Image | None:
    """None if nothing shines through."""
    seen = picture.convert("LA") if picture.mode == "La" else picture
    seen = seen if seen.mode == "RGBA" else seen.convert("RGBA")
    alpha = seen.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return None
    white = Pillow.new("RGB", picture.size, (255, 255, 255))
    white.paste(seen, mask=alpha)
    return white.convert("L") if picture.mode in GREY else white


def _scaled(picture: Pillow.Image) -> tuple[Pillow.Image, str]:
    """(numbers as grey of 8 bits, a note if black and white are the picture's own). Raises Unreadable."""
    values = np.asarray(picture)
    tags = getattr(picture, "tag_v2", {})
    bits, signed = tags.get(BITS_PER_SAMPLE, (16,))[0], tags.get(SAMPLE_FORMAT, (1,))[0] == 2
    if picture.mode == "I" and tags and bits == 32 and not signed:
        values = values.view(np.uint32)  # Pillow has no such mode
    if count := values.size - int(np.isfinite(values).sum()):
        raise Unreadable(f"{count:,} of its {values.size:,} pixels are not finite numbers", unit="image")
    least, most = float(values.min()), float(values.max())
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
        ranges = [bits]
    else:
        ranges = [0] * (picture.mode == "F") + [8, 15 if signed and bits == 16 else 16]
    found = next((bits for bits in ranges if least >= 0 and most <= max(1, 2**bits - 1)), None)
    grey = np.empty(values.shape, np.uint8)
    rows = max(1, PIXELS_AT_ONCE // values.shape[1])
    for start in range(0, len(values), rows):
        part = values[start : start + rows].astype(np.float64)
        if found:  # the upper 8 bits, as Pillow has it for colours
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
    note = f"its values of {least:g} to {most:g} have no range of their own: the least is black, the greatest white"
    return Pillow.fromarray(grey), note if found is None else ""
