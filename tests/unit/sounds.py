"""Random sounds, encoded, and the audio modality that reads them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import soundfile

from foundray.contract import load_modality

RATE = 8000


def audio(**options: Any) -> Any:
    """An audio modality with frames of 200 samples, one every 80."""
    return load_modality("audio", {"rate": RATE, "bins": 20, **options})


def sound(samples: int = 4000, seed: int = 0, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((samples, channels)) * 0.1


def encoded(samples: np.ndarray, form: str = "WAV", subtype: str | None = None, rate: int = RATE) -> bytes:
    soundfile.write(file := io.BytesIO(), samples, rate, subtype, format=form)
    return file.getvalue()
