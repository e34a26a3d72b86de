"""MPEG audio files (MP3): frames of a fixed duration, which a decoder reads one after another.

The first frame of a recording usually has no sound but a header (Xing, LAME or Fraunhofer) with the number of frames that
follow; libsndfile reads only that many. Without a header it guesses the number from the size of the first frames, and stops
there. This module therefore separates consecutive recordings, and prepends a header if the guess is wrong. Tables: ISO/IEC
11172-3 and 13818-3.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

KBITS = {
    (3, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (3, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates in kbit/s by (version: 3 for MPEG-1, 2 for the others; layer), then by the number in the header, from 1."""
HERTZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""Sampling rates by version, then by the number in the header."""
IN_A_ROW = 3
"""Consecutive frames that count as sound after other bytes: a single one may be accidental."""
TRIED = 100_000
"""False frame starts after which the search ends (judgement: a minute of sound has fewer bytes that look like one)."""
SPARE = 4
"""Frames by which a header's count may be too low (judgement: encoders append up to a tenth of a second)."""


class Frame(NamedTuple):
    size: int
    """Size in bytes."""
    samples: int
    kind: tuple[int, int, int, bool]
    """(version, layer, sampling rate, whether mono): the same in all frames of a recording."""


@dataclass
class Recording:
    at: int
    """Offset of its first byte, which may belong to a tag."""
    kind: tuple[int, int, int, bool]
    samples_per_frame: int
    promised: int | None = None
    """Frames that the header promises; None without a header, 0 if libsndfile ignores it."""
    frames: list[tuple[int, int]] = field(default_factory=list)
    """(offset, size) of each frame with sound."""
    gaps: list[tuple[int, int]] = field(default_factory=list)
    """(offset, size) of bytes between them that are neither frames nor tags."""
    end: int = 0

    @property
    def samples(self) -> int:
        return len(self.frames) * self.samples_per_frame


def recordings(content: bytes) -> list[Recording]:
    """Find the recordings of a file, in order; none if no frame has a known size."""
    found, at, tag = list[Recording](), 0, -1
    gap: int | None = None
    while at < len(content) - 3:
        # A frame of the expected kind counts as it is; after other bytes, or of another kind, others must follow it.
        known = found[-1].kind if found and gap is None and tag < 0 else None
        frame = _frame(content, at)
        if frame is not None and frame.kind != known:
            other = bool(found) and frame.kind != found[-1].kind
            frame = frame if _continues(content, at, frame, until_the_end=not other) else None
        if frame is not None and at + frame.size <= len(content):
            promised = _promised(content, at, frame)
            if not found or tag >= 0 or promised is not None or frame.kind != found[-1].kind:
                found.append(Recording(tag if tag >= 0 else at, frame.kind, frame.samples, promised))
            elif gap is not None:
                found[-1].gaps.append((gap, at - gap))
            if promised is None:
                found[-1].frames.append((at, frame.size))
            at, tag, gap = at + frame.size, -1, None
        elif size := tag_size(content, at):
            # ID3v2 tags precede a recording; other tags follow one.
            start = at if content.startswith(b"ID3", at) else at + size
            tag, at = start if tag < 0 else tag, at + size
        else:
            gap = at if gap is None else gap
            at = _next(content, at + 1)
    rest = gap if gap is not None else at
    if found and content[rest:].strip(b"\0"):
        found[-1].gaps.append((rest, len(content) - rest))
    return _with_ends(found, len(content))


def headed(content: bytes, recording: Recording) -> bytes:
    """A recording's frames after a header with their number. For layer III only."""
    version, _, rate, mono = recording.kind
    kbits = KBITS[3 if version == 3 else 2, 3]
    first = content[recording.frames[0][0] :][:4]
    # 64 kbit/s, because a smaller frame might not have room; no checksum, no padding.
    head = bytes([0xFF, first[1] | 1, (kbits.index(64) + 1) << 4 | first[2] & 0x0C, first[3]])
    size = (144 if version == 3 else 72) * 64_000 // rate
    length = sum(size for _, size in recording.frames) + size
    body = head + bytes(_side(version, mono)) + b"Xing" + struct.pack(">III", 3, len(recording.frames), length)
    return body.ljust(size, b"\0") + b"".join(content[at : at + size] for at, size in recording.frames)


def _with_ends(found: list[Recording], size: int) -> list[Recording]:
    """Set the recordings' ends; frames after those that a header promises become a recording of their own."""
    whole = list[Recording]()
    if not found:
        return whole
    for one, until in zip(found, [*(other.at for other in found[1:]), size], strict=True):
        one.end = until
        whole.append(one)
        if one.promised and len(one.frames) > one.promised + SPARE:
            at = one.frames[one.promised][0]
            rest = Recording(at, one.kind, one.samples_per_frame, None, one.frames[one.promised :], one.gaps, until)
            one.frames, one.gaps, one.end = one.frames[: one.promised], [], at
            whole.append(rest)
    return [one for one in whole if one.frames or one.promised]


def _frame(content: bytes, at: int) -> Frame | None:
    """Frame that begins at an offset, by its header; None for other bytes."""
    if at + 4 > len(content) or content[at] != 0xFF:
        return None
    return _of_header(content[at + 1], content[at + 2], content[at + 3] >> 6 == 3)


@cache
def _of_header(second: int, third: int, mono: bool) -> Frame | None:
    version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
    number, rate, padding = third >> 4, third >> 2 & 3, third >> 1 & 1
    if second & 0xE0 != 0xE0 or version == 1 or layer == 4 or number in (0, 15) or rate == 3:
        return None
    bits, hertz = 1000 * KBITS[3 if version == 3 else 2, layer][number - 1], HERTZ[version][rate]
    samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
    size = (12 * bits // hertz + padding) * 4 if layer == 1 else samples // 8 * bits // hertz + padding
    return Frame(size, samples, (version, layer, hertz, mono))


def _continues(content: bytes, at: int, frame: Frame, until_the_end: bool = True) -> bool:
    """Whether frames of the same kind follow; with `until_the_end`, also whether the recording ends after the frame."""
    for followed in range(IN_A_ROW - 1):
        at += frame.size
        if at == len(content) or tag_size(content, at):
            return until_the_end
        if at + 4 > len(content):
            return until_the_end and followed > 0  # a frame that is cut off
        following = _frame(content, at)
        if following is None or following.kind != frame.kind:
            return False
        frame = following
    return True


def _side(version: int, mono: bool) -> int:
    """Bytes of side information, after which a header stands."""
    return (17 if mono else 32) if version == 3 else (9 if mono else 17)


def _promised(content: bytes, at: int, frame: Frame) -> int | None:
    """Number of frames that this frame's header promises; 0 if libsndfile ignores it; None if the frame has no header."""
    version, layer, _, mono = frame.kind
    if layer != 3:
        return None
    for skipped in (0, 2):  # without and with a checksum
        start = at + 4 + skipped + _side(version, mono)
        if content[start : start + 4] in (b"Xing", b"Info"):
            flags, count = struct.unpack(">II", content[start + 4 : start + 12].ljust(8, b"\0"))
            return count if flags & 1 else 0
    return 0 if content.startswith(b"VBRI", at + 36) else None


def tag_size(content: bytes, at: int) -> int:
    """Size in bytes of the tag that begins at an offset; 0 for other bytes."""
    if content.startswith(b"ID3", at) and at + 10 <= len(content) and max(content[at + 6 : at + 10]) < 128:
        a, b, c, d = content[at + 6 : at + 10]
        return 10 + (a << 21 | b << 14 | c << 7 | d) + 10 * (content[at + 5] >> 4 & 1)
    if content.startswith(b"TAG", at):
        return 128
    if content.startswith(b"LYRICSBEGIN", at) and (end := content.find(b"LYRICS200", at)) >= 0:
        return end + 9 - at
    if content.startswith(b"APETAGEX", at) and at + 32 <= len(content):
        size, _, flags = struct.unpack("<III", content[at + 12 : at + 24])
        return size + 32 * (flags >> 31 and flags >> 29 & 1) or 32
    return 0


def _next(content: bytes, at: int) -> int:
    """Offset of the next frame or tag; the end of the file if there is none for long."""
    for tried, match in enumerate(_beginnings().finditer(content, at)):
        frame = _frame(content, match.start())
        if tag_size(content, match.start()) if frame is None else _continues(content, match.start(), frame):
            return match.start()
        if tried == TRIED:
            break
    return len(content)


@cache
def _beginnings() -> re.Pattern[bytes]:
    """Pattern of the first bytes of a frame or an ID3 tag."""
    second = bytes(byte for byte in range(256) if _of_header(byte, 0x10, False))
    third = bytes(byte for byte in range(256) if _of_header(0xFF, byte, False))
    return re.compile(rb"\xff[%b][%b]|ID3" % (re.escape(second), re.escape(third)))
