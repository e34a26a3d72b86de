"""Recordings: encoded bytes become samples, and what is not whole is told.

libsndfile decodes WAV, FLAC, MP3, Ogg Vorbis and Opus. Where a file breaks off it may give what there is, so promises are
checked here: a WAV's against its size, a FLAC's or MP3's against what was decoded, and that an Ogg stream has its last page.
An MP3 of the oldest kind promises nothing: it has no Xing or Info header.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import soundfile

from foundray.contract import Unreadable

FORMATS = ("WAV", "WAVEX", "FLAC", "MP3", "OGG")
RATES = range(1_000, 400_000)
"""Hz: a header that says something else is not to be trusted with the size of a resampling filter."""
UNKNOWN = 2**63 - 1
"""Samples of a FLAC that was written to a pipe, as libsndfile tells it."""


@contextmanager
def opened(content: bytes) -> Iterator[soundfile.SoundFile]:
    """A recording, to be read inside the block. Raises Unreadable, there too."""
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as sound:
            _check(sound, content)
            yield sound
    except soundfile.LibsndfileError as error:
        reason = error.error_string.removeprefix("Error : ").rstrip(".")
        raise Unreadable(f"not a whole recording of a known kind: {reason}") from None


def pieces(sound: soundfile.SoundFile, most: int) -> Iterator[tuple[int, np.ndarray]]:
    """(first sample, [up to `most`] float64 samples in [-1, 1]), mixed down to one channel. Raises Unreadable."""
    at = 0
    while len(samples := sound.read(most, dtype="float64", always_2d=True).mean(1)):
        if not np.isfinite(samples).all():
            raise Unreadable(f"sample {at + int(np.flatnonzero(~np.isfinite(samples))[0])} is not a finite number")
        yield at, samples / max(1.0, np.abs(samples).max())
        at += len(samples)
    if at != sound.frames:
        raise Unreadable(f"its header promises {sound.frames} samples, and it holds {at}")


def resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """By a polyphase filter, which also keeps out what the new rate cannot hold."""
    if rate == wanted:
        return samples
    from scipy.signal import resample_poly  # takes a while to import, and most data has the right rate

    common = math.gcd(rate, wanted)
    whole: np.ndarray = resample_poly(samples, wanted // common, rate // common)
    return whole


def flac(samples: np.ndarray, rate: int) -> bytes:
    """One channel in [-1, 1], encoded with 16 bits."""
    whole = np.clip(np.rint(samples * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
    soundfile.write(file := io.BytesIO(), whole, rate, format="FLAC")
    return file.getvalue()


def _check(sound: soundfile.SoundFile, content: bytes) -> None:
    """Raises Unreadable."""
    if sound.format not in FORMATS:
        raise Unreadable(f"a recording as {sound.format}; WAV, FLAC, MP3 and Ogg are read")
    if sound.samplerate not in RATES:
        raise Unreadable(f"its header says {sound.samplerate} samples a second")
    if sound.format.startswith("WAV"):
        _check_wav(content)
    if sound.format == "OGG" and not _ends(content[content.rfind(b"OggS") :]):
        raise Unreadable("its last page is missing, or not whole")
    if not 0 < sound.frames < UNKNOWN:
        raise Unreadable("it holds no samples" if not sound.frames else "its header does not say how many samples there are")


def _check_wav(content: bytes) -> None:
    """Walk the chunks (name, size, content, even) to the samples. Raises Unreadable where their size is not true."""
    number, at = ("<I" if content.startswith(b"RIFF") else ">I"), 12
    while at + 8 <= len(content):
        name, (size,), left = content[at : at + 4], struct.unpack(number, content[at + 4 : at + 8]), len(content) - at - 8
        if name == b"data":
            if size > left:
                raise Unreadable(f"its header promises {size} bytes of samples, and it holds {left}")
            return
        at += 8 + size + size % 2


def _ends(page: bytes) -> bool:
    """Whether an Ogg page is the last one, and whole: 27 bytes of header, the sizes of its segments, and these."""
    if len(page) < 27 or not page[5] & 4:
        return False
    sizes = page[27 : 27 + page[26]]
    return len(page) >= 27 + page[26] + sum(sizes)
