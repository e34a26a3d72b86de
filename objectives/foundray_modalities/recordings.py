"""Separates the recordings in one file: most have one, but files can be concatenated, and Ogg can contain several.

libsndfile reads only the first and does not report the others, so each one becomes a file of its own here. A single recording
keeps its bytes.
"""

from __future__ import annotations

import io
import re
from typing import NamedTuple

import soundfile

from foundray.contract import Unreadable
from foundray_modalities import mpeg, ogg, wav

WAV = re.compile(rb"RIF[FX].{4}WAVE", re.DOTALL)
"""Start of a WAV: 8 fixed bytes, which samples do not contain by accident."""
FLAC = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
"""Start of a FLAC: its name, and a block of 34 bytes."""


class Part(NamedTuple):
    """One recording of a file."""

    at: int
    """Offset of its first byte."""
    content: bytes | Unreadable
    """The recording as a file of its own."""
    note: Unreadable | None = None
    """Note about bytes in it that are not sound."""


def parts(content: bytes) -> list[Part]:
    """Recordings of a file, in order; a file of an unknown kind is one."""
    if content.startswith(ogg.MARK):
        return [Part(at, part) for at, part in ogg.recordings(content)]
    if content.startswith((b"RIFF", b"RIFX")):
        return [part._replace(note=_trailing_bytes(part)) for part in _cut(content, WAV, 0)]
    if FLAC.match(content, start := mpeg.tag_size(content, 0)):
        return _cut(content, FLAC, _first_frame(content, start))
    found = mpeg.recordings(content)
    return [_of_frames(content, one, len(found) == 1) for one in found] or [Part(0, content)]


def _cut(content: bytes, start: re.Pattern[bytes], at: int) -> list[Part]:
    """Cut the content at each later start of a recording after an offset."""
    starts = [0, *(match.start() for match in start.finditer(content, max(1, at)))]
    if len(starts) == 1:
        return [Part(0, content)]
    return [Part(at, content[at:end]) for at, end in zip(starts, [*starts[1:], len(content)], strict=True)]


def _trailing_bytes(part: Part) -> Unreadable | None:
    assert isinstance(part.content, bytes)
    if not (count := wav.trailing(part.content)):
        return None
    return Unreadable(f"{count:,} bytes after the samples that its header promises are not read", 0, "recording")


def _first_frame(content: bytes, at: int) -> int:
    """Offset of a FLAC's first frame: metadata before it, such as a picture, may contain anything."""
    at += 4
    while at + 4 <= len(content):
        last, size = content[at] & 0x80, int.from_bytes(content[at + 1 : at + 4], "big")
        at += 4 + size
        if last:
            break
    return at


def _of_frames(content: bytes, one: mpeg.Recording, alone: bool) -> Part:
    whole = content if alone else content[one.at : one.end]
    if one.promised or one.kind[1] != 3:
        return Part(0 if alone else one.at, whole)
    note = None
    if one.gaps:
        lost, size = sum(size for _, size in one.gaps), sum(size for _, size in one.frames)
        reason = f"{lost:,} bytes are not complete frames of MPEG audio, the first at byte {one.gaps[0][0]}"
        note = Unreadable(reason, lost * len(one.frames) // size, "frame")
    # libsndfile decodes a header that it ignores as a frame of silence.
    right = _samples(whole) - one.samples in ({0} if one.promised is None else {0, one.samples_per_frame})
    return Part(0 if alone else one.at, whole if right else mpeg.headed(content, one), note)


def _samples(content: bytes) -> int:
    """Number of samples that libsndfile guesses; -1 if it cannot open the file."""
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as sound:
            return int(sound.frames)
    except Exception:  # the same error comes up when the recording is read
        return -1
