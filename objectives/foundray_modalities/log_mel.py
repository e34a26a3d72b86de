"""Log-mel spectrograms, close to what the ear resolves (Davis & Mermelstein 1980, without the cosine transform)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

FLOOR = 1e-8
"""Smallest power, about the rounding noise of 16 bits: digital silence would give minus infinity."""


def log_mel(samples: np.ndarray, rate: int, bins: int, window: int, hop: int) -> np.ndarray:
    """Natural logarithms of power [1 + (N - window) // hop, bins] of samples [N], in frames of `window` samples.

    Periodic Hann windows inside the recording, transforms of the next power of two, mel filters from 0 to rate / 2.
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
    hann = np.sin(np.pi * np.arange(window) / window) ** 2
    power = np.abs(np.fft.rfft(frames * hann, transform(window))) ** 2
    logarithms: np.ndarray = np.log(np.maximum(power @ filters(rate, bins, window).T, FLOOR))
    return logarithms


def transform(window: int) -> int:
    """Length of the Fourier transform of a window, in samples."""
    return 1 << (window - 1).bit_length()


@lru_cache(8)
def filters(rate: int, bins: int, window: int) -> np.ndarray:
    """Filters [bins, frequencies]: triangles of height 1, even in mel = 2595 log10(1 + Hz / 700) (O'Shaughnessy 1987)."""
    frequencies = np.arange(transform(window) // 2 + 1) * rate / transform(window)
    highest = np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** np.linspace(0, highest, bins + 2) - 1)
    rising = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    return np.clip(np.minimum(rising, falling), 0, None)
