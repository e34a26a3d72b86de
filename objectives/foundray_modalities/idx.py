"""Reads idx files of images, the format of MNIST: a header, then the pixels of each image, 8 bits of grey.

See LeCun, Cortes and Burges, The MNIST database of handwritten digits, 1998.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from foundray.contract import Unreadable

HEADER = struct.Struct(">HBBIII")
"""0, type of a value, number of axes, and the lengths of three axes: images, height, width."""
BYTES = 0x08
TYPES = {BYTES: "bytes", 0x09: "signed bytes", 0x0B: "16-bit numbers", 0x0C: "32-bit numbers", 0x0D: "floats", 0x0E: "doubles"}
"""Type of the values, by the number in the header."""


def is_idx(content: bytes) -> bool:
    """Whether the content is an idx file, by its header; no other image format begins like this."""
    return content[:2] == b"\0\0" and len(content) > 3 and content[2] in TYPES and 0 < content[3] < 8


def images(content: bytes) -> Iterator[tuple[str, np.ndarray | Unreadable]]:
    """Yield (`image N`, [height, width] uint8) for each whole image; what is missing or not read comes last.

    Another file may follow the first, as after `cat`. Raises Unreadable if the header is not one of images.
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
    if rest := len(content) - at:
        reason = f"{rest} bytes follow the last image that its header promises"
        yield f"byte {at}", Unreadable(reason, rest // (height * width), "image")
    if not number:
        yield "byte 0", Unreadable("empty", 0, "image")


def _read(content: bytes, at: int) -> tuple[np.ndarray, int, tuple[int, int]]:
    """(pixels [N, height, width] uint8; promised images; promised height, width) at an offset. Raises Unreadable."""
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
    if not whole:  # NumPy may not allow an array with the sides that the header promises
        return np.empty((0, 1, 1), np.uint8), count, (height, width)
    pixels = np.frombuffer(content, np.uint8, whole * height * width, at + HEADER.size)
    return pixels.reshape(whole, height, width), count, (height, width)
