"""A micro-batch: the plans of its samples as padded arrays, on their way from a data worker to the model.

It travels as safetensors bytes. What is the same for all units (no padding, one document, asked everywhere) is left out.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from safetensors import numpy as safetensors

from foundray.contract import Plan

Arrays = dict[str, np.ndarray]


def packed(plans: Sequence[Plan]) -> bytes:
    """The plans of a micro-batch's samples, collated."""
    return safetensors.save(collate(plans))


def collate(plans: Sequence[Plan]) -> Arrays:
    """x [B, T], and where they tell something: valid, document and hidden [B, T]; of each ask its target and where."""
    lengths = np.array([len(plan.units) for plan in plans])
    valid = np.arange(lengths.max()) < lengths[:, None]
    arrays: Arrays = {"x": _padded([plan.units.x for plan in plans], valid, np.int32)}
    if not valid.all():
        arrays["valid"] = valid
    document = _padded([plan.units.document for plan in plans], valid, np.int32)
    if any((plan.units.document != plan.units.document[0]).any() for plan in plans):
        arrays["document"] = document
    if plans[0].hidden is not None:
        arrays["hidden"] = _padded([plan.hidden for plan in plans], valid, bool)
    for index, ask in enumerate(plans[0].asks):
        asks = [plan.asks[index] for plan in plans]
        arrays[f"{ask.head}.target"] = _padded([one.target for one in asks], valid, np.int32)
        where = _padded([np.ones(len(one.target), bool) if one.where is None else one.where for one in asks], valid, bool)
        if not np.array_equal(where, valid):
            arrays[f"{ask.head}.where"] = where
    return arrays


def _padded(rows: Sequence[np.ndarray | None], valid: np.ndarray, dtype: type) -> np.ndarray:
    """[B, T]: the rows, then zeros."""
    whole: np.ndarray = np.zeros(valid.shape, dtype)
    whole[valid] = np.concatenate([row for row in rows if row is not None])
    return whole


def fingerprint(payload: bytes) -> int:
    """CRC-32 of a micro-batch: what is shown, and what is asked."""
    return zlib.crc32(payload)


def combined(fingerprints: Sequence[int]) -> str:
    """The fingerprint of a whole step, from those of its micro-batches."""
    return f"{zlib.crc32(np.array(fingerprints, np.uint32).tobytes()):08x}"
