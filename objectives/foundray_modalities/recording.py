"""Recordings: encoded bytes become samples, and what is not whole is told.

libsndfile decodes WAV, FLAC, MP3, Ogg Vorbis and Opus. Where a file breaks off it may give what there is, so promises are
checked here: a WAV's against its size, a FLAC's or MP3's against what was decoded. The pages of an Ogg are checked when data
is prepared (see `ogg.missing`), as is the size of an MP3 that promises nothing (see `mpeg`).
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import soundfile

from foundray.contract import Unreadable
from foundray_modalities import wav

FORMATS = ("WAV", "WAVEX", "FLAC", "MP3", "OGG")
RATES = range(1_000, 400_000)
"""Hz: a header that says something else is not to be trusted with the size of a resampling filter."""
UNKNOWN = 2**63 - 1
"""Samples of a FLAC that was written to a pipe, as libsndfile tells it."""
MIXED = 2**26
"""Samples, of all channels, that are mixed down together (512 MiB): a file of many silent channels may be tiny."""


@contextmanager
def opened(content: bytes) -> Iterator[soundfile.SoundFile]:
    """A recording, to be read inside the block. Raises Unreadable, there too."""
    try:
        with _as_unreadable():
            sound = soundfile.SoundFile(io.BytesIO(content))
        with sound:
            _check(sound, content)
            yield sound
    except soundfile.LibsndfileError as error:
        reason = error.error_string.removeprefix("Error : ").rstrip(".")
        behind = _read_until_damage(content)
        raise Unreadable(f"not a whole recording of a known kind: {reason}{behind}", unit="recording") from None


def pieces(sound: soundfile.SoundFile, most: int) -> Iterator[tuple[int, np.ndarray]]:
    """(first sample, [up to `most`] float64 samples in [-1, 1]), mixed down to one channel. Raises Unreadable."""
    at = 0
    while len(samples := _mixed(sound, most)):
        if not np.isfinite(samples).all():
            first = at + int(np.flatnonzero(~np.isfinite(samples))[0])
            raise Unreadable(f"sample {first} is not a finite number", unit="recording")
        yield at, samples / max(1.0, np.abs(samples).max())
        at += len(samples)
    if at != sound.frames:
        raise Unreadable(f"its header promises {sound.frames} samples, and it holds {at}", unit="recording")


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


@contextmanager
def _as_unreadable() -> Iterator[None]:
    """What soundfile itself raises becomes Unreadable; errors of libsndfile's pass."""
    try:
        yield
    except soundfile.LibsndfileError:
        raise
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        raise Unreadable(f"not a whole recording of a known kind: {reason[:200]}", unit="recording") from None


def _mixed(sound: soundfile.SoundFile, most: int) -> np.ndarray:
    """The next samples, up to `most`, as the mean over the channels; none at the end."""
    block = max(1, MIXED // sound.channels)
    with _as_unreadable(), np.errstate(over="ignore", invalid="ignore"):
        if most <= block:
            return sound.read(most, dtype="float64", always_2d=True).mean(1)
        parts = list[np.ndarray]()
        while most > 0 and len(part := sound.read(min(most, block), dtype="float64", always_2d=True).mean(1)):
            parts.append(part)
            most -= len(part)
    return np.concatenate(parts) if parts else np.empty(0)


def _read_until_damage(content: bytes) -> str:
    """How far a recording can be read, as the end of a sentence; nothing if it cannot be opened."""
    at = 0
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as sound:
            frames = min(sound.frames, UNKNOWN)
            try:
                while count := len(sound.read(1024)):
                    at += count
            except soundfile.LibsndfileError:
                pass
            return f"; {at:,} of {frames:,} samples can be read"
    except Exception:
        return ""


def _check(sound: soundfile.SoundFile, content: bytes) -> None:
    """Raises Unreadable."""
    if sound.format not in FORMATS:
        raise Unreadable(f"a recording as {sound.format}; WAV, FLAC, MP3 and Ogg are read", unit="recording")
    if sound.samplerate not in RATES:
        raise Unreadable(f"its header says {sound.samplerate} samples a second", unit="recording")
    if sound.format.startswith("WAV") and (missing := wav.missing(content)):
        raise Unreadable(missing, unit="recording")
    if not 0 < sound.frames < UNKNOWN:
        reason = "its header does not say how many samples there are" if sound.frames else "it holds no samples"
        raise Unreadable(reason, unit="recording")
