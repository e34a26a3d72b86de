"""A micro-batch: its samples' plans as padded arrays, sent from a data worker to the model.

The payload is safetensors bytes. It omits arrays that are the same for all units (no padding, one document, a full loss mask).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from safetensors import numpy as safetensors

from foundray.contract import Plan

Arrays = dict[str, np.ndarray]


def packed(plans: Sequence[Plan]) -> bytes:
    """Collate a micro-batch's plans and serialise them."""
    return safetensors.save(collate(plans))


def collate(plans: Sequence[Plan]) -> Arrays:
    """Pad the plans into arrays.

    `x` is [B, T] or [B, T, K]. Only if they carry information: `valid`, `document` and `hidden` (masked units) [B, T], `keep`
    (visible units) [B, S], and of each head `HEAD.target` and `HEAD.where` (the loss mask). The names are part of the payload,
    and so of the fingerprints in the step logs of existing runs: they cannot change.
    """
    # Validity first: all other arrays are padded by it.
    lengths = np.array([len(plan.units) for plan in plans])
    valid = np.arange(lengths.max()) < lengths[:, None]
    arrays: Arrays = {"x": _padded([plan.units.x for plan in plans], valid)}
    if not valid.all():
        arrays["valid"] = valid
    if any(plan.units.document is not None for plan in plans):
        documents = [plan.units.document for plan in plans]
        arrays["document"] = _padded(
            [np.zeros(n, np.int64) if d is None else d for d, n in zip(documents, lengths, strict=True)], valid
        )
    if plans[0].masked is not None:
        arrays["hidden"] = _padded([plan.masked for plan in plans], valid)
    if plans[0].visible is not None:
        arrays["keep"] = np.stack([plan.visible for plan in plans if plan.visible is not None]).astype(np.int32)
    # One target and one loss mask per head. A mask that equals `valid` is the default, so it is not sent.
    for targets in zip(*(plan.targets for plan in plans), strict=True):
        head, taught = targets[0].head, targets[0].values is None
        if not taught:
            arrays[f"{head}.target"] = _padded([target.values for target in targets], valid)
        masks = [np.ones(n, bool) if t.loss_mask is None else t.loss_mask for t, n in zip(targets, lengths, strict=True)]
        loss_mask = _padded(masks, valid)
        if taught or not np.array_equal(loss_mask, valid):
            arrays[f"{head}.where"] = loss_mask
    return arrays


def _padded(rows: Sequence[np.ndarray | None], valid: np.ndarray) -> np.ndarray:
    """Rows padded with zeros, [B, T, ...]; int64 becomes int32."""
    values = np.concatenate([row for row in rows if row is not None])
    dtype = np.int32 if values.dtype == np.int64 else values.dtype
    padded: np.ndarray = np.zeros(valid.shape + values.shape[1:], dtype)
    padded[valid] = values
    return padded


def fingerprint(payload: bytes) -> int:
    """CRC-32 of a micro-batch's payload: inputs and targets."""
    return zlib.crc32(payload)


def combined(fingerprints: Sequence[int]) -> str:
    """Fingerprint of a step, from its micro-batches' fingerprints."""
    return f"{zlib.crc32(np.array(fingerprints, np.uint32).tobytes()):08x}"
