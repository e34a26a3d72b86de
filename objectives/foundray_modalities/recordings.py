"""The recordings in one file: most hold one, but files of each kind can be put behind each other, and Ogg takes several.

libsndfile reads the first and says nothing of the others, so that they are taken apart here, each to be read as a file of
its own. One that is alone stays the bytes that it is.
"""

from __future__ import annotations

import io
import re
from typing import NamedTuple

import soundfile

from foundray.contract import Unreadable
from foundray_modalities import mpeg, ogg, wav

WAV = re.compile(rb"RIF[FX].{4}WAVE", re.DOTALL)
"""How a WAV begins: 8 bytes that no samples have by chance."""
FLAC = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
"""How a FLAC begins: its name, and a block of 34 bytes."""


class Part(NamedTuple):
    """One recording of a file."""

    at: int
    """Offset of its first byte."""
    content: bytes | Unreadable
    """As a file of its own."""
    note: Unreadable | None = None
    """What of it is not sound."""


def parts(content: bytes) -> list[Part]:
    """Those of a file, in order; a file of an unknown kind is one."""
    if content.startswith(ogg.MARK):
        return [Part(at, part) for at, part in ogg.recordings(content)]
    if content.startswith((b"RIFF", b"RIFX")):
        return [part._replace(note=_behind(part)) for part in _cut(content, WAV, 0)]
    if FLAC.match(content, behind := mpeg.tag_size(content, 0)):
        return _cut(content, FLAC, _behind_metadata(content, behind))
    found = mpeg.recordings(content)
    return [_of_frames(content, one, len(found) == 1) for one in found] or [Part(0, content)]


def _cut(content: bytes, start: re.Pattern[bytes], at: int) -> list[Part]:
    """Before each place behind an offset where another one begins."""
    starts = [0, *(match.start() for match in start.finditer(content, max(1, at)))]
    if len(starts) == 1:
        return [Part(0, content)]
    return [Part(at, content[at:end]) for at, end in zip(starts, [*starts[1:], len(content)], strict=True)]


def _behind(part: Part) -> Unreadable | None:
    assert isinstance(part.content, bytes)
    if not (count := wav.behind(part.content)):
        return None
    return Unreadable(f"{count:,} bytes behind the samples that its header promises are not read", 0, "recording")


def _behind_metadata(content: bytes, at: int) -> int:
    """Offset of a FLAC's first frame: a block of metadata, such as a picture, may hold anything."""
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
        reason = f"{lost:,} bytes are no whole frames of MPEG audio, the first at byte {one.gaps[0][0]}"
        note = Unreadable(reason, lost * len(one.frames) // size, "frame")
    # A header that libsndfile does not heed is read as a frame of silence.
    right = _samples(whole) - one.samples in ({0} if one.promised is None else {0, one.samples_per_frame})
    return Part(0 if alone else one.at, whole if right else mpeg.headed(content, one), note)


def _samples(content: bytes) -> int:
    """As libsndfile guesses."""
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as sound:
            return int(sound.frames)
    except Exception:  # it says so again where the recording is read
        return -1
