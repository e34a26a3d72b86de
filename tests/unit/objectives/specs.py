"""A small spec for every objective that is installed."""

from __future__ import annotations

from typing import Any

from foundray.contract import OBJECTIVES, installed
from foundray.spec import Spec
from foundray.testing.specs import make_spec

IMAGE = {"data__modality": {"kind": "image", "size": 16, "patch": 4, "channels": 1}, "model__context": 16}
SERIES = {"data__modality": {"kind": "series", "patch": 6}, "model__context": 10}
AUDIO = {"data__modality": {"kind": "audio", "rate": 8000, "bins": 8}, "model__context": 10}
AGENT = {"kind": "trajectory", "state_width": 3, "action_width": 2, "discrete": True}
STEPS = {"data__modality": AGENT, "model__context": 12}
VALUE_OBJECTIVES: dict[str, dict[str, Any]] = {
    "contrastive": IMAGE,
    "joint_embedding": {**IMAGE, "objective__masking": "drop"},
    "masked_frame": {**AUDIO, "objective__codes": 64},
    "masked_patch": SERIES,
    "masked_pixel": IMAGE,
    "next_action": STEPS,
    "next_frame": AUDIO,
    "next_patch": IMAGE,
    "next_state": STEPS,
    "vicreg": SERIES,
}
"""Objectives of values, with data for each: a kind that cannot learn from tokens is refused below if it is not here."""
TOKEN_OBJECTIVES = [kind for kind in installed(OBJECTIVES) if kind not in VALUE_OBJECTIVES]


def spec_of(kind: str, changes: dict[str, Any]) -> Spec:
    """The small spec with this objective, and of files if it has another modality than text."""
    files = {"data__sources": [{"path": "x", "format": "files"}]} if "data__modality" in changes else {}
    return make_spec(objective={"kind": kind}, **changes, **files)


SPECS = {
    **{kind: spec_of(kind, VALUE_OBJECTIVES.get(kind, {})) for kind in [*TOKEN_OBJECTIVES, *VALUE_OBJECTIVES]},
    "joint_embedding of tokens": spec_of("joint_embedding", {}),
}
"""By the objective's name."""
