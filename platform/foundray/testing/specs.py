"""Small specs that train in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from foundray.spec import Spec
from foundray.spec.loading import parse_spec

IMAGES: dict[str, Any] = {
    "objective": {"kind": "masked_pixel"},
    "data__sources": [{"path": "x", "format": "files"}],
    "data__modality": {"kind": "image", "size": 8, "patch": 4, "channels": 1},
    "model__context": 4,
}
"""Changes of the small spec that make it learn from images of 8 by 8 pixels, in 4 patches."""
SERIES: dict[str, Any] = {
    "objective": {"kind": "masked_patch"},
    "data__sources": [{"path": "x", "format": "files"}],
    "data__modality": {"kind": "series", "patch": 4},
    "model__context": 4,
}
"""Changes of the small spec that make it learn from time series, in patches of 4 values."""


def small_spec(source: Path, storage: Path, **changes: Any) -> dict[str, Any]:
    """A spec of a small run over the text `source`, as YAML holds it.

    `changes` are fields by their dotted name, with `__` for the dot: `train__steps=3`.
    """
    spec: dict[str, Any] = {
        "name": "small",
        "data": {"sources": [{"path": str(source)}], "holdout": 0.1, "tokenizer": {"kind": "bytes"}},
        "objective": {"kind": "next_token"},
        "model": {"width": 32, "depth": 2, "heads": 2, "context": 32},
        "optimizer": {"kind": "adamw8bit", "lr": 4e-3},
        "train": {"steps": 12, "micro_batches": 5, "micro_batch_size": 2, "evaluate_every": 100, "checkpoint_every": 4},
        "scale": {"workers": 1},
        "storage": str(storage),
    }
    for name, value in changes.items():
        *path, last = name.split("__")
        here = spec
        for key in path:
            here = here.setdefault(key, {})
        here[last] = value
    return spec


def write_spec(folder: Path, spec: dict[str, Any]) -> Path:
    """Write `spec` as the folder's `spec.yaml`."""
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def make_spec(**changes: Any) -> Spec:
    """The small spec with changes, checked; its files and storage are not there."""
    return spec_in(Path("y"), **changes)


def spec_in(storage: Path, **changes: Any) -> Spec:
    """The small spec with changes, checked, with its runs in `storage`."""
    return parse_spec(yaml.safe_dump(small_spec(Path("x"), storage, **changes)), "test")
