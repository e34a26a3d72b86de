"""idx files of images, the format of MNIST: a header, and the pixels of each image, 8 bits of grey.

See LeCun, Cortes and Burges, The MNIST database of handwritten digits, 1998.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from foundray.contract import Unreadable

HEADER = struct.Struct(">HBBIII")
"""0, the type of a value, the number of axes, and the length of each of three: images, height, width."""
BYTES = 0x08
TYPES = {BYTES: "bytes", 0x09: "signed bytes", 0x0B: "16-bit numbers", 0x0C: "32-bit numbers", 0x0D: "floats", 0x0E: "doubles"}
"""Of the values, by the number in the header."""


def is_idx(content: bytes) -> bool:
    """By the header; no image of another kind begins so."""
    return content[:2] == b"\0\0" and len(content) > 3 and content[2] in TYPES and 0 < content[3] < 8


def images(content: bytes) -> Iterator[tuple[str, np.ndarray | Unreadable]]:
    """(`image N`, [height, width] uint8) of each whole image; what is missing, or is not read, comes last.

    Another file may follow the first, as `cat` leaves it. Raises Unreadable for a header that is none of images.
    """
    at = number = 0
    while True:
        pixels, promised, (height, width) = _read(content, at)
        for image in pixels:
            yield f"image {number}", image
            number += 1
        if lost := promised - len(pixels):
            held = len(content) - at - HEADER.size
            reason = f"its header promises {promised} images of {height}x{width}, and it holds {held} bytes"
            yield f"image {number}", Unreadable(reason, lost, "image")
            return
        at += HEADER.size + pixels.size
        if not is_idx(content[at : at + 4]):
            break
    if behind := len(content) - at:
        reason = f"{behind} bytes stand behind the last image that its header promises"
        yield f"byte {at}", Unreadable(reason, behind // (height * width), "image")
    if not number:
        yield "byte 0", Unreadable("empty", 0, "image")


def _read(content: bytes, at: int) -> tuple[np.ndarray, int, tuple[int, int]]:
    """([N, height, width] uint8; images, height and width that the header at an offset promises). Raises Unreadable."""
    if len(content) - at < HEADER.size:
        raise Unreadable("not an idx file of images: it is shorter than its header", unit="file")
    zero, kind, axes, count, height, width = HEADER.unpack_from(content, at)
    if zero or kind not in TYPES:
        raise Unreadable("not an idx file of images: its header says so", unit="file")
    if (kind, axes) != (BYTES, 3):
        found = f"{TYPES[kind]} with {axes} {'axis' if axes == 1 else 'axes'}"
        raise Unreadable(f"an idx file of {found}; one of images has bytes with 3 axes: image, row, column", unit="file")
    if not height * width:
        raise Unreadable(
            f"its header promises {count} images of {height}x{width}, which have no pixels", max(1, count), "image"
        )
    whole = min(count, (len(content) - at - HEADER.size) // (height * width))
    if not whole:  # of what sides the header promises, NumPy may have no array
        return np.empty((0, 1, 1), np.uint8), count, (height, width)
    pixels = np.frombuffer(content, np.uint8, whole * height * width, at + HEADER.size)
    return pixels.reshape(whole, height, width), count, (height, width)
