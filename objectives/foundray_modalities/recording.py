"""Recordings: decodes bytes to samples, and detects incomplete ones.

libsndfile decodes WAV, FLAC, MP3, Ogg Vorbis and Opus. It may decode a truncated file without an error, so this module checks
the header: a WAV's against its size, a FLAC's or MP3's against what was decoded. The pages of an Ogg are checked when data is
prepared (see `ogg.missing`), as is the size of an MP3 without a header (see `mpeg`).
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
"""Accepted sampling rates in Hz: a damaged header must not decide the size of a resampling filter."""
UNKNOWN = 2**63 - 1
"""Number of samples that libsndfile reports for a FLAC written to a pipe."""
MIXED = 2**26
"""Samples, over all channels, mixed down together (512 MiB): a file with many silent channels may be tiny."""


@contextmanager
def opened(content: bytes) -> Iterator[soundfile.SoundFile]:
    """Open a recording for the block. Raises Unreadable, also for errors in the block."""
    try:
        with _as_unreadable():
            sound = soundfile.SoundFile(io.BytesIO(content))
        with sound:
            _check(sound, content)
            yield sound
    except soundfile.LibsndfileError as error:
        reason = error.error_string.removeprefix("Error : ").rstrip(".")
        readable = _read_until_damage(content)
        raise Unreadable(f"not a whole recording of a known kind: {reason}{readable}", unit="recording") from None


def pieces(sound: soundfile.SoundFile, most: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first sample, up to `most` float64 samples in [-1, 1]), mixed down to one channel. Raises Unreadable."""
    at = 0
    while len(samples := _mixed(sound, most)):
        if not np.isfinite(samples).all():
            first = at + int(np.flatnonzero(~np.isfinite(samples))[0])
            raise Unreadable(f"sample {first} is not a finite number", unit="recording")
        yield at, samples / max(1.0, np.abs(samples).max())
        at += len(samples)
    if at != sound.frames:
        raise Unreadable(f"its header promises {sound.frames} samples, and it has {at}", unit="recording")


def resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Resample with a polyphase filter, which also removes frequencies above the new rate's limit."""
    if rate == wanted:
        return samples
    from scipy.signal import resample_poly  # slow to import, and most data has the right rate

    common = math.gcd(rate, wanted)
    whole: np.ndarray = resample_poly(samples, wanted // common, rate // common)
    return whole


def flac(samples: np.ndarray, rate: int) -> bytes:
    """Encode one channel in [-1, 1] as 16-bit FLAC."""
    whole = np.clip(np.rint(samples * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
    soundfile.write(file := io.BytesIO(), whole, rate, format="FLAC")
    return file.getvalue()


@contextmanager
def _as_unreadable() -> Iterator[None]:
    """Turn soundfile's own errors into Unreadable; libsndfile's pass."""
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
    """How far a recording can be read, to end a sentence; empty if it cannot be opened."""
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
    """Raises Unreadable for a format, rate or length that cannot be used."""
    if sound.format not in FORMATS:
        raise Unreadable(f"a recording in the format {sound.format}; WAV, FLAC, MP3 and Ogg are read", unit="recording")
    if sound.samplerate not in RATES:
        raise Unreadable(f"its header says {sound.samplerate} samples per second", unit="recording")
    if sound.format.startswith("WAV") and (missing := wav.missing(content)):
        raise Unreadable(missing, unit="recording")
    if not 0 < sound.frames < UNKNOWN:
        reason = "its header does not say how many samples there are" if sound.frames else "it has no samples"
        raise Unreadable(reason, unit="recording")
