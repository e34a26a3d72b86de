"""Unusual pictures: their pixels after conversion, and the notes on them; ordinary ones stay unchanged."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageCms
from tests.unit.files import rows

from foundray.contract import Unreadable, load_modality
from foundray.data.prepare.sources import BadRow
from foundray_modalities import idx, picture

SIDE = 32
RAMP = np.arange(SIDE * SIDE, dtype=np.uint32).reshape(SIDE, SIDE) * 64 + np.arange(SIDE, dtype=np.uint32) * 2
"""Values of 16 bits, from black to nearly white."""
EIGHT = (RAMP >> 8).astype(np.uint8)


def image(size: int = SIDE, channels: int = 1, **options: Any) -> Any:
    return load_modality("image", {"size": size, "patch": size, "channels": channels, **options})


def saved(one: Pillow.Image, form: str = "png", **options: Any) -> bytes:
    one.save(file := io.BytesIO(), form, **options)
    return file.getvalue()


def pixels(content: bytes, channels: int = 1, size: int = SIDE) -> np.ndarray:
    """[height, width] or [height, width, 3] uint8: what training sees of the one picture in a file."""
    (row, *_) = [row for _, row in image(size, channels).rows("x", content, 1)]
    assert not isinstance(row, Unreadable), row
    seen = np.rint((image(size, channels).units(row, 1, None).x + 1) * 127.5).astype(np.uint8)
    return seen.reshape((size, size) if channels == 1 else (size, size, 3))


def quarantined(content: bytes, name: str = "x.png") -> list[tuple[str, str, int, str]]:
    """(position, reason, lost, unit) of each line of the quarantine."""
    found = image().rows(name, content, 1)
    try:
        return [(at, str(row), row.lost, row.unit) for at, row in found if isinstance(row, Unreadable)]
    except Unreadable as error:
        return [("", str(error), error.lost, error.unit)]


def tiff(values: np.ndarray, kind: int, bits: int, photometric: int = 1) -> bytes:
    """TIFF with one strip of the values in memory; `kind` is 1 for unsigned, 2 for signed, 3 for floats."""
    height, width = values.shape
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: values.nbytes}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted({**entries, 339: kind}.items()))
    return b"II*\0" + struct.pack("<I", 8 + values.nbytes) + values.tobytes() + struct.pack("<H", 10) + directory + bytes(4)


# Ranges


@pytest.mark.parametrize(
    "content",
    [
        saved(Pillow.fromarray(RAMP.astype(np.uint16))),
        saved(Pillow.fromarray(RAMP.astype(np.uint16)), "tiff"),
        saved(Pillow.fromarray(RAMP.astype(">u2")), "tiff"),
        saved(Pillow.fromarray(RAMP.astype(np.int32)), "tiff"),
        saved(Pillow.fromarray(RAMP.astype(np.int32)), "ppm"),
        saved(Pillow.fromarray(RAMP.astype(np.float32)), "tiff"),
        saved(Pillow.fromarray(EIGHT.astype(np.float32)), "tiff"),
        saved(Pillow.fromarray(EIGHT.astype(np.int32)), "tiff"),
        saved(Pillow.fromarray((EIGHT / 255).astype(np.float32)), "tiff"),
        tiff((RAMP // 2).astype(np.int16), 2, 16),
        tiff((65535 - RAMP).astype(np.uint16), 1, 16, photometric=0),
    ],
    ids=[
        "png",
        "tiff",
        "big-endian",
        "int32",
        "pgm",
        "floats",
        "floats-to-255",
        "ints-to-255",
        "floats-to-1",
        "signed",
        "inverted",
    ],
)
def test_wide_numbers_are_the_same_picture_in_eight_bits(content: bytes) -> None:
    assert np.array_equal(pixels(content), EIGHT)
    assert np.array_equal(pixels(content, 3), EIGHT[..., None].repeat(3, 2))
    assert quarantined(content) == []


def test_numbers_without_a_range_are_stretched_and_a_note_says_so() -> None:
    wide = RAMP.astype(np.int64) * 65_536  # also above 2**31: Pillow turns unsigned numbers into negative ones
    for content in (tiff(wide.astype(np.uint32), 1, 32), tiff((wide - 2**31).astype(np.int32), 2, 32)):
        stretched = np.rint(RAMP * (255 / RAMP.max()))
        assert np.array_equal(pixels(content), stretched)
        ((position, reason, lost, _),) = quarantined(content)
        assert (position, lost) == ("byte 0", 0)
        assert reason.endswith("have no defined range: the smallest is black, the largest white")
    heights = np.float32([[-1.0, 0.0], [1.0, 3.0]])
    assert pixels(saved(Pillow.fromarray(heights), "tiff"), size=2).tolist() == [[0, 64], [128, 255]]
    assert pixels(saved(Pillow.fromarray(np.full((2, 2), -7.0, np.float32)), "tiff"), size=2).tolist() == [[0, 0], [0, 0]]


def test_pixels_that_are_not_numbers_are_counted() -> None:
    values = np.ones((4, 4), np.float32)
    values[1, 2], values[3, 3] = np.nan, np.inf
    assert quarantined(saved(Pillow.fromarray(values), "tiff")) == [
        ("", "2 of its 16 pixels are not finite numbers", 1, "image")
    ]


# Transparency


def seen_through(mode: str) -> Pillow.Image:
    """Black; transparent on the left, half transparent in the middle."""
    one = Pillow.new(mode, (4, 1))
    black, alpha = (0,) * (len(mode) - 1), (0, 128, 255, 255)
    one.putdata([(*black, value) for value in alpha])
    return one


@pytest.mark.parametrize(("mode", "form"), [("RGBA", "png"), ("LA", "png"), ("RGBA", "webp"), ("RGBA", "tiff"), ("LA", "tiff")])
def test_transparent_pixels_are_blended_with_white(mode: str, form: str) -> None:
    content = saved(seen_through(mode), form, **({"lossless": True, "exact": True} if form == "webp" else {}))
    with Pillow.open(io.BytesIO(content)) as one:
        assert one.mode == mode
    row = next(iter(image().rows("x", content, 1)))[1]
    mended = Pillow.open(io.BytesIO(row["image"]))
    assert mended.mode == ("L" if mode == "LA" else "RGB")
    assert np.asarray(mended.convert("L")).tolist() == [[255, 127, 0, 0]]


def test_transparent_colours_and_palettes() -> None:
    grey = Pillow.fromarray(np.uint8([[0, 85, 170, 255]]))
    colour = grey.convert("RGB")
    palette = Pillow.fromarray(np.uint8([[0, 1, 2, 3]]))
    palette.putpalette([0, 0, 0, 85, 85, 85, 170, 170, 170, 255, 255, 255])
    for content in (
        saved(grey, transparency=85),
        saved(colour, transparency=(85, 85, 85)),
        saved(palette, transparency=1),
        saved(palette, transparency=b"\xff\x00\xff\xff"),
        saved(palette, "gif", transparency=1),
        saved(Pillow.fromarray(np.uint16([[0, 85, 43_520, 65_535]])), transparency=85),
        png_of_few_bits(bits=2, values=bytes([0b00011011]), clear=1),
        png_of_few_bits(bits=4, values=bytes([0x05, 0xAF]), clear=5),
    ):
        row = next(iter(image().rows("x", content, 1)))[1]
        assert row["image"] != content
        assert np.asarray(Pillow.open(io.BytesIO(row["image"])).convert("L")).tolist() == [[0, 255, 170, 255]]
    black = Pillow.new("1", (2, 1))
    black.putpixel((1, 0), 1)
    row = next(iter(image().rows("x", saved(black, transparency=0), 1)))[1]
    assert np.asarray(Pillow.open(io.BytesIO(row["image"]))).tolist() == [[255, 255]]


def png_of_few_bits(bits: int, values: bytes, clear: int) -> bytes:
    """A grey picture of one row of four pixels, with one transparent value."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0))
    body = chunk(b"tRNS", struct.pack(">H", clear)) + chunk(b"IDAT", zlib.compress(b"\0" + values))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


# Orientation


@pytest.mark.parametrize("form", ["jpeg", "png", "webp", "tiff", "avif"])
def test_pictures_are_turned_upright(form: str) -> None:
    upright = np.zeros((24, 16, 3), np.uint8)
    upright[:8, :8], upright[16:, 8:] = (255, 0, 0), (0, 0, 255)
    undo: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1), 6: lambda p: np.rot90(p), 7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
        8: lambda p: np.rot90(p, -1),
    }  # fmt: skip
    for orientation, stored in undo.items():
        exif = Pillow.Exif()
        exif[0x0112] = orientation
        options = {"quality": 95, "exif": exif} if form in ("jpeg", "avif") else {"exif": exif}
        options |= {"lossless": True} if form == "webp" else {}
        content = saved(Pillow.fromarray(np.ascontiguousarray(stored(upright))), form, **options)
        row = next(iter(image().rows("x", content, 1)))[1]
        seen = picture.opened(row["image"]).convert("RGB")
        assert seen.size == (16, 24), orientation
        assert np.abs(np.asarray(seen, int) - upright).mean() < 12, orientation
        assert (row["image"] == content) == (orientation == 1 or form == "tiff"), "Pillow turns TIFF itself"


def test_damaged_exif_is_no_reason_to_lose_a_picture() -> None:
    content = saved(Pillow.fromarray(EIGHT), "png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(pixels(content), EIGHT)


# Colours


def test_lab_is_trained_on_in_grey_and_in_colour() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8) // 2 + 64
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(Pillow.fromarray(rgb), *profiles, outputMode="LAB")
    assert lab is not None
    content = saved(lab, "tiff")
    with Pillow.open(io.BytesIO(content)) as one:
        assert one.mode == "LAB"
    assert np.abs(pixels(content, 3).astype(int) - rgb).max() < 20
    assert np.abs(pixels(content).astype(int) - np.asarray(Pillow.fromarray(rgb).convert("L"))).max() < 20
    assert image().units({"image": content}, 1, None).x.shape == (1, SIDE**2), "as data prepared before has it"


def test_ordinary_pictures_stay_the_bytes_that_they_are() -> None:
    colour = Pillow.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8))
    opaque = colour.convert("RGBA")
    ordinary = [
        saved(colour.convert("1")), saved(colour.convert("L")), saved(colour.convert("P")), saved(colour), saved(opaque),
        saved(colour.convert("LA")), saved(colour, "jpeg"), saved(colour.convert("CMYK"), "jpeg"), saved(colour, "bmp"),
        saved(colour.convert("CMYK"), "tiff"), saved(colour.convert("YCbCr"), "tiff"), saved(colour, "gif"),
        saved(opaque, "webp"), saved(colour, "ppm"), saved(colour, "jpeg2000"), saved(colour, "avif"),
        saved(colour.convert("P"), transparency=b"\xff" * 256),
    ]  # fmt: skip
    for content in ordinary:
        assert [row for _, row in image().rows("x", content, 1)] == [{"image": content}]
        seen = picture.opened(content)
        for channels, mode in ((1, "L"), (3, "RGB")):
            assert np.array_equal(pixels(content, channels), np.asarray(seen.convert(mode)))


# Shapes and sizes


LITTLE = """
import resource, sys
from pathlib import Path
import numpy as np
from foundray.contract import load_modality
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    for options in ({}, {"crop": 0.5}):
        modality = load_modality("image", {"size": 224, "patch": 224, "channels": 1, **options})
        (row,) = [row for _, row in modality.rows(path, Path(path).read_bytes(), 1)]
        assert (modality.units(row, 1, np.random.default_rng(0)).x > 0.5).all(), "the middle"
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_extreme_shapes_need_little_memory(tmp_path: Path) -> None:
    long = np.zeros((1, 65_000), np.uint8)
    long[0, 32_500 - 8 : 32_500 + 8] = 200
    paths = tmp_path / "wide.png", tmp_path / "high.png"
    for path, values in zip(paths, (long, long.T), strict=True):
        path.write_bytes(saved(Pillow.fromarray(values)))
    done = subprocess.run([sys.executable, "-c", LITTLE, *map(str, paths)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200 * 1024, "KiB"


@pytest.mark.parametrize("size", [(64, 40), (400, 3), (7, 500), (4000, 500)])
def test_scaling_is_unchanged_except_for_extreme_shapes(size: tuple[int, int]) -> None:
    one = Pillow.effect_noise(size, 100)
    scale = SIDE / min(size)
    width, height = (max(SIDE, round(side * scale)) for side in size)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    whole = one.resize((width, height), Pillow.Resampling.BICUBIC).crop((left, top, left + SIDE, top + SIDE))
    assert np.array_equal(pixels(saved(one, "bmp")), np.asarray(whole))


def test_a_bomb_is_recognised_by_its_number_of_pixels() -> None:
    small = saved(Pillow.new("1", (16, 16)))
    for side in (10_000, 60_000):
        header = struct.pack(">II", side, side)
        content = (
            small[:16] + header + small[24:29] + struct.pack(">I", zlib.crc32(b"IHDR" + header + small[24:29])) + small[33:]
        )
        reason = f"it has {side**2:,} pixels, and at most 89,478,485 are read"
        assert quarantined(content) == [("", reason, 1, "image")]


# Frames


@pytest.mark.parametrize("form", ["gif", "png", "webp", "tiff", "avif"])
def test_the_first_of_several_frames_is_used_and_a_note_says_so(form: str) -> None:
    shown = [Pillow.new("RGB", (SIDE, SIDE), colour) for colour in ("#ff0000", "#00ff00", "#0000ff")]
    content = saved(shown[0], form, save_all=True, append_images=shown[1:])
    assert quarantined(content) == [("frame 2", "only the first of 3 frames is used", 0, "frame")]
    assert np.abs(pixels(content, 3).astype(int) - (255, 0, 0)).max() < 8
    assert quarantined(saved(shown[0], form)) == []


def test_a_photo_with_its_preview_is_one_picture() -> None:
    content = saved(Pillow.fromarray(EIGHT), "mpo", save_all=True, append_images=[Pillow.fromarray(EIGHT)])
    assert quarantined(content) == []


# What cannot be read


def test_every_error_of_pillow_becomes_a_reason(tmp_path: Path) -> None:
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    for content, said in (
        (b"", "not an image of a known kind"),
        (drawing, "a vector drawing (EPS), not a picture of pixels"),
        (saved(Pillow.effect_noise((SIDE, SIDE), 100))[:500], "not a whole image: "),
        (saved(Pillow.fromarray(EIGHT), "tiff")[:900], "not a whole image: "),
    ):
        ((_, reason, lost, unit),) = quarantined(content)
        assert reason.startswith(said)
        assert (lost, unit) == (1, "image")
        (tmp_path / "x.png").write_bytes(content)
        (bad,) = rows(image(), tmp_path / "x.png", 1)
        assert isinstance(bad, BadRow)
        assert (bad.reason, bad.unit) == ((reason, unit) if content else ("empty", "file"))


# idx


def idx_file(count: int, height: int = 2, width: int = 3, kind: int = 8, axes: int = 3) -> bytes:
    return struct.pack(">HBBIII", 0, kind, axes, count, height, width) + bytes(range(count * height * width))


PROMISES = "its header promises {} images of 2x3, and it holds {} bytes"
BEHIND = "{} bytes follow the last image that its header promises"
IS_OF = "an idx file of {}; one of images has bytes with 3 axes: image, row, column"


@pytest.mark.parametrize(
    ("content", "images", "said"),
    [
        (idx_file(5), 5, None),
        (idx_file(5)[:-7], 3, ("image 3", PROMISES.format(5, 23), 2, "image")),
        (idx_file(2) + idx_file(3), 5, None),
        (idx_file(2) + idx_file(3)[:-1], 4, ("image 4", PROMISES.format(3, 17), 1, "image")),
        (idx_file(2) + bytes([9] * 13), 2, ("byte 28", BEHIND.format(13), 2, "image")),
        (idx_file(2) + b"\n\n", 2, ("byte 28", BEHIND.format(2), 0, "image")),
        (
            struct.pack(">HBBIII", 0, 8, 3, 7, 2**31, 2**32 - 1) + b"abc",
            0,
            ("image 0", "its header promises 7 images of 2147483648x4294967295, and it holds 3 bytes", 7, "image"),
        ),
        (idx_file(0), 0, ("byte 0", "empty", 0, "image")),
        (idx_file(5, height=0), 0, ("", "its header promises 5 images of 0x3, which have no pixels", 5, "image")),
        (idx_file(2, kind=0x0B), 0, ("", IS_OF.format("16-bit numbers with 3 axes"), 1, "file")),
        (idx_file(2, axes=1), 0, ("", IS_OF.format("bytes with 1 axis"), 1, "file")),
        (b"\0\0\x08\x03", 0, ("", "not an idx file of images: it is shorter than its header", 1, "file")),
    ],
)
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "images.bin", "X-IDX3-UBYTE.xz"])
def test_idx_files(content: bytes, images: int, said: tuple[str, str, int, str] | None, name: str) -> None:
    assert quarantined(content, name) == ([said] if said else [])
    found = []
    try:
        found = [row for _, row in image().rows(name, content, 1) if not isinstance(row, Unreadable)]
    except Unreadable:
        assert images == 0
    assert len(found) == images
    for row, (_, values) in zip(found, idx.images(content) if found else [], strict=False):
        assert np.array_equal(np.asarray(Pillow.open(io.BytesIO(row["image"]))), values)
