"""Recordings (WAV, FLAC, MP3, Ogg; one or several per file) as frames of a log-mel spectrogram.

Each bin is normalised to zero mean and unit variance over its recording, or over the piece of a long one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from foundray.contract import Units, UnitShape, Unreadable, Values
from foundray_modalities import ogg, recording, recordings
from foundray_modalities.log_mel import filters, log_mel


class Audio(Values):
    gives: ClassVar[str] = "frames"
    public: ClassVar[tuple[str, ...]] = ("HuBERT", "wav2vec 2.0", "Whisper")
    endings: ClassVar[tuple[str, ...]] = (".wav", ".flac", ".mp3", ".ogg", ".opus")

    rate: int = Field(default=16_000, ge=1_000, le=48_000)
    """Sampling rate in Hz; every recording is resampled to it."""
    bins: int = Field(default=80, ge=1, le=512)
    """Mel bins per frame."""
    window: float = Field(default=25.0, gt=0, le=1000)
    """Length of a frame, in milliseconds."""
    hop: float = Field(default=10.0, gt=0, le=1000)
    """Distance from one frame to the next, in milliseconds."""
    stack: int = Field(default=1, ge=1, le=100)
    """Frames stacked into one unit."""

    @model_validator(mode="after")
    def _resolved(self) -> Audio:
        window, hop = self._frame
        if min(window, hop) < 2:
            raise ValueError(f"window {self.window} ms and hop {self.hop} ms must be two samples or more at {self.rate} Hz")
        if not self._every_bin_has_weight(self.bins):
            most = next((bins for bins in range(self.bins - 1, 0, -1) if self._every_bin_has_weight(bins)), 0)
            raise ValueError(f"a window of {self.window} ms at {self.rate} Hz resolves {most} bins, not {self.bins}")
        return self

    def _every_bin_has_weight(self, bins: int) -> bool:
        return bool(filters(self.rate, bins, self._frame[0]).any(1).all())

    @property
    def _frame(self) -> tuple[int, int]:
        """Window and hop, in samples."""
        return round(self.window * self.rate / 1000), round(self.hop * self.rate / 1000)

    @property
    def shape(self) -> UnitShape:
        return UnitShape(width=self.stack * self.bins)

    def samples(self, units: int, rate: int) -> int:
        """Number of samples, at rate `rate`, that `units` units need."""
        window, hop = self._frame
        return math.ceil((window + (units * self.stack - 1) * hop) * rate / self.rate)

    def rows(self, name: str, content: bytes, length: int) -> Iterator[tuple[str, dict[str, Any] | Unreadable]]:
        """Yield a recording as it is, or if longer than twice `length`, in pieces of that size (resampled, mono, 16-bit FLAC).

        Training cuts a sample out of each at random. If a long recording is cut off, the pieces before that are used.
        """
        found = recordings.parts(content)
        for number, part in enumerate(found):
            which, start = (
                (f"recording {number}, ", f"recording {number}, byte {part.at}") if len(found) > 1 else ("", "byte 0")
            )
            try:
                for sample, row in self._rows(part.content, length):
                    yield start if sample is None else f"{which}sample {sample}", row
            except Unreadable as error:
                if len(found) == 1:
                    raise
                yield start, error
        yield from ((f"byte {part.at}", part.note) for part in found if part.note)

    def _rows(self, content: bytes | Unreadable, length: int) -> Iterator[tuple[int | None, dict[str, Any]]]:
        """Yield (first sample, row) for each piece of a recording, or (None, its only row). Raises Unreadable."""
        if isinstance(content, Unreadable):
            raise content
        with recording.opened(content) as sound:
            rate, least, most = sound.samplerate, self.samples(1, sound.samplerate), self.samples(2 * length, sound.samplerate)
            if sound.format == "OGG" and (missing := ogg.missing(content, 48_000 if sound.subtype == "OPUS" else rate)):
                raise Unreadable(missing, unit="recording")
            if sound.frames < least:
                reason = f"a recording of {sound.frames} samples is shorter than one unit of {least}"
                raise Unreadable(reason, unit="recording")
            for start, samples in recording.pieces(sound, most):
                if sound.frames > most and len(samples) >= least:
                    samples = recording.resampled(samples, rate, self.rate)
                    yield start, {"audio": recording.flac(samples, self.rate)}
            if sound.frames <= most:
                yield None, {"audio": content}

    def units(self, row: dict[str, Any], length: int, rng: np.random.Generator | None) -> Units:
        """Up to `length` units: a random stretch of a longer recording, or without `rng` its beginning."""
        with recording.opened(row["audio"]) as sound:
            samples = np.concatenate([samples for _, samples in recording.pieces(sound, sound.frames)])
            samples = recording.resampled(samples, sound.samplerate, self.rate)
        frames = log_mel(samples, self.rate, self.bins, *self._frame)
        frames = (frames - frames.mean(0)) / np.sqrt(frames.var(0) + 1e-5)
        spare = max(0, len(frames) - length * self.stack)
        start = 0 if rng is None else int(rng.integers(0, spare + 1))
        count = min(length, len(frames) // self.stack)
        cut = frames[start : start + count * self.stack]
        return Units(cut.reshape(count, -1).astype(np.float32))

    def picture(self, x: np.ndarray) -> np.ndarray:
        """A spectrogram, time to the right and pitch upwards; black is three standard deviations below a bin's mean."""
        return np.clip(x.reshape(-1, self.bins).T[::-1] / 6 + 0.5, 0, 1)
