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
    """x [B, T] or [B, T, K], and where they tell something: valid, document and hidden [B, T], keep [B, S]; of each ask its
    target and where.
    """
    lengths = np.array([len(plan.units) for plan in plans])
    valid = np.arange(lengths.max()) < lengths[:, None]
    arrays: Arrays = {"x": _padded([plan.units.x for plan in plans], valid)}
    if not valid.all():
        arrays["valid"] = valid
    if any(plan.units.document is not None for plan in plans):
        of = [plan.units.document for plan in plans]
        arrays["document"] = _padded(
            [np.zeros(n, np.int64) if d is None else d for d, n in zip(of, lengths, strict=True)], valid
        )
    if plans[0].hidden is not None:
        arrays["hidden"] = _padded([plan.hidden for plan in plans], valid)
    if plans[0].keep is not None:
        arrays["keep"] = np.stack([plan.keep for plan in plans if plan.keep is not None]).astype(np.int32)
    for index, ask in enumerate(plans[0].asks):
        asks = [plan.asks[index] for plan in plans]
        if ask.target is not None:
            arrays[f"{ask.head}.target"] = _padded([one.target for one in asks], valid)
        where = _padded([np.ones(n, bool) if a.where is None else a.where for a, n in zip(asks, lengths, strict=True)], valid)
        if ask.target is None or not np.array_equal(where, valid):
            arrays[f"{ask.head}.where"] = where
    return arrays


def _padded(rows: Sequence[np.ndarray | None], valid: np.ndarray) -> np.ndarray:
    """[B, T, ...]: the rows, then zeros. Whole numbers take four bytes."""
    values = np.concatenate([row for row in rows if row is not None])
    dtype = np.int32 if values.dtype == np.int64 else values.dtype
    whole: np.ndarray = np.zeros(valid.shape + values.shape[1:], dtype)
    whole[valid] = values
    return whole


def fingerprint(payload: bytes) -> int:
    """CRC-32 of a micro-batch: what is shown, and what is asked."""
    return zlib.crc32(payload)


def combined(fingerprints: Sequence[int]) -> str:
    """The fingerprint of a whole step, from those of its micro-batches."""
    return f"{zlib.crc32(np.array(fingerprints, np.uint32).tobytes()):08x}"
