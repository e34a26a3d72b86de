"""Pictures: their sizes and colours, and the square and patches that suit them."""

from __future__ import annotations

import gzip
import io
import posixpath
import shlex
import statistics
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image

from foundray.data.files.files import RawFile
from foundray.data.files.names import bare
from foundray.data.formats.tar import members
from foundray.errors import InputError
from foundray.proposing.choices import Choice
from foundray.proposing.kinds import Group
from foundray.proposing.prefix import contents, first_bytes, measured_bytes, whole
from foundray.wording.words import plural, size

SEEN = 32
"""Pictures that are looked at."""
SIZES = (32, 48, 64, 96, 128, 160, 224)
CPU_SIZE = 64
"""Largest square without a GPU: decoding and attention take most of the time from there on. Judgement."""
SIDES = (6, 14)
"""Fewest and most patches along a side, unless the picture is smaller; 8 is preferred, 14 from 224 pixels on, as in ViT."""


@dataclass(frozen=True)
class Seen:
    """Some pictures."""

    sides: list[tuple[int, int]]
    grey: bool
    count: float
    """Estimated number of all pictures."""


def look(place: str, group: Group, gpu: bool) -> Choice:
    """Choose square, patch and channels. Raises InputError if no picture can be read."""
    seen = _idx(group.files) or _files(group.files)
    if not seen.sides:
        raise InputError(f"{place}: none of {plural(min(SEEN, len(group.files)), 'picture')} can be read")
    square = square_of(seen.sides, 224 if gpu else CPU_SIZE)
    patch = patch_of(square)
    channels = 1 if seen.grey else 3
    widths, heights = zip(*seen.sides, strict=True)
    smallest, largest = (f"{extreme(widths)}x{extreme(heights)}" for extreme in (min, max))
    what = smallest if smallest == largest else f"{smallest} to {largest}"
    folders = labels(group.files)
    found = [
        f"pictures: {seen.count:,.0f} in {plural(len(group.files), 'file')} ({group.endings()}), {size(group.bytes)}, "
        f"{what} pixels, {'grey' if seen.grey else 'in colour'}"
    ]
    if folders:
        shown = ", ".join(folders[:6]) + ", …" * (len(folders) > 6)
        found.append(f"  {plural(len(folders), 'folder')}, which may be labels: {shown}")
    units = (square // patch) ** 2
    return Choice(
        modality={"kind": "image", "size": square, "patch": patch, "channels": channels},
        sources=[{"path": place, **({"format": "files"} if group.files[0].format == "files" else {"format": "webdataset"})}],
        objective={"kind": "masked_pixel"}, units=seen.count * units, samples=seen.count, context=units,
        width=patch**2 * channels, found=found,
        notes={
            "modality": "cut to a square, then into patches; flip, shift, crop and light vary them",
            "objective": "or: joint_embedding, contrastive, vicreg; see docs/objectives.md",
            "model": f"the context is {square // patch} x {square // patch} patches",
        },
        then=_PROBE if folders else f"foundray embed {{name}} {shlex.quote(place)} vectors",
    )  # fmt: skip


_PROBE = "foundray probe {name} --task FILE, with kind: classify and labels: {kind: name}, which are the folders"


def square_of(sides: Sequence[tuple[int, int]], most: int) -> int:
    """Side of the square: the pictures' own if all are equal and small squares, else a usual one."""
    (width, height), alike = sides[0], len(set(sides)) == 1
    if alike and width == height <= most and width >= 8 and width % 4 == 0:
        return width
    middle = statistics.median(min(one) for one in sides)
    fitting = [one for one in SIZES if one <= min(middle, most)]
    return fitting[-1] if fitting else max(8, int(middle) // 4 * 4)


def patch_of(square: int) -> int:
    """Side of a patch: a divisor that gives about eight patches along a side."""
    if square >= 224:
        return 16
    divisors = [patch for patch in range(1, square + 1) if square % patch == 0]
    fitting = [patch for patch in divisors if SIDES[0] <= square // patch <= SIDES[1]] or divisors[1:2]
    return min(fitting, key=lambda patch: (abs(square // patch - 8), patch))


def labels(files: Sequence[RawFile]) -> list[str]:
    """Names of the folders right above the pictures, if they may be labels: several, with several pictures in each."""
    names = [posixpath.basename(posixpath.dirname(file.url)) for file in files]
    found = sorted(set(names))
    return found if 2 <= len(found) <= len(files) / 2 else []


def _idx(files: Sequence[RawFile]) -> Seen | None:
    """Of idx files, whose header says all; None for others."""
    headers = []
    for file in files:
        if "idx3-ubyte" in bare(file.url):
            content = first_bytes(file, 16)
            content = content if content[:2] == b"\0\0" else _unzipped(whole(file))
            headers.append(struct.unpack(">4i", content)[1:] if len(content) == 16 else (0, 0, 0))
    if not headers:
        return None
    return Seen([(columns, rows) for _, rows, columns in headers if rows], True, sum(count for count, _, _ in headers))


def _unzipped(content: bytes) -> bytes:
    """The header of an idx file that is compressed though its name does not say so; nothing if it is none."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            return file.read(16)
    except (OSError, EOFError, zlib.error):
        return b""


def _files(files: Sequence[RawFile]) -> Seen:
    sides, grey, size_of_one = list[tuple[int, int]](), True, list[int]()
    for content in contents(files, SEEN, _in_archive):
        try:
            with Image.open(io.BytesIO(content)) as picture:
                sides.append(picture.size)
                grey = grey and _is_grey(picture)
                size_of_one.append(len(content))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
    archives = sum(file.size * measured_bytes(file, 2**20)[1] for file in files if file.format == "webdataset")
    inside = archives / statistics.mean(size_of_one) if archives and size_of_one else 0
    return Seen(sides, grey, inside + sum(file.format != "webdataset" for file in files))


def _in_archive(stream: io.BufferedReader) -> Iterator[bytes]:
    return (content for _, content in islice(members(stream), SEEN + 1) if isinstance(content, bytes))


def _is_grey(picture: Image.Image) -> bool:
    if picture.mode in ("1", "L", "LA", "I", "I;16", "F"):
        return True
    picture.draft("RGB", (64, 64))
    small = np.asarray(picture.convert("RGB").resize((32, 32)), np.int16)
    return bool((np.ptp(small, axis=2) <= 2).all())
