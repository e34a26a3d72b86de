"""What a spec need not say: the smallest is `data: PATH`. Missing fields are filled before the spec is checked.

What is filled in counts like what is written: it is in the resolved spec, and in the run's identity. So nothing here may
depend on files or machines; `foundray init` proposes what does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundray import contract
from foundray.spec.learning import LENGTHS

OBJECTIVES = {
    "tokens": "next_token", "patches": "masked_pixel", "frames": "next_frame", "series": "masked_patch", "steps": "next_action",
}  # fmt: skip
"""The objective, by what a modality gives. Other modalities have to name one."""
SHAPE = {"width": 128, "depth": 4, "heads": 4}
CONTEXT = {True: 128, False: 60}
"""Units per sample, of ids or of values without a grid; 60 is divided by two, three, four and five kinds of units."""
RATE = {True: 4e-3, False: 3e-3}
"""Peak learning rate at a width of up to `TUNED_WIDTH`, of ids or of values, as in the examples."""
TUNED_WIDTH = 128
TRAIN = {"steps": 1000, "micro_batches": 4, "micro_batch_size": 8}
NAMES_OF_PLACES = ("prepared", "surveys", "data", "runs")
"""Names that say nothing of the data, or that a run may not have."""


def filled(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a spec, with those that follow from the others. Raises InputError for an unknown option of the modality."""
    found = in_full(fields)
    modality = _modality(found.get("data", {"sources": [{}]}))  # without data, only that is reported as missing
    if modality is None:
        return found
    ids = modality.gives == "tokens"
    found.setdefault("name", name_of(_first_path(found.get("data", {}))))
    if "objective" not in found and modality.gives in OBJECTIVES:
        found["objective"] = {"kind": OBJECTIVES[modality.gives]}
    if isinstance(model := found.get("model", SHAPE), Mapping):
        found["model"] = {**SHAPE, **model} if "context" in model else {**SHAPE, **model, "context": _context(modality)}
    if isinstance(optimizer := found.get("optimizer", {}), Mapping):
        found["optimizer"] = {**optimizer} if "lr" in optimizer else {**optimizer, "lr": rate(ids, found["model"])}
    if (train := found.get("train")) is None:
        found["train"] = dict(TRAIN)
    elif isinstance(train, Mapping) and not any(length in train for length in LENGTHS):
        found["train"] = {"steps": TRAIN["steps"], **train}
    return found


def in_full(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, with a section that a path stands for written as a section."""
    found = dict(fields)
    if isinstance(place := found.get("data"), str):
        found["data"] = {"sources": [{"path": place}]}
    if isinstance(run := found.get("init_from"), str):
        found["init_from"] = {"run": run}
    return found


def rate(ids: bool, model: Any) -> float:
    """Peak learning rate of a model: it falls with the width, as GPT-3's does (Brown et al. 2020, table 2.1)."""
    width = model.get("base_width") or model.get("width") if isinstance(model, Mapping) else None
    wide = width if isinstance(width, int) and width > TUNED_WIDTH else TUNED_WIDTH
    return float(f"{RATE[ids] * TUNED_WIDTH / wide:.1g}")


def name_of(place: str) -> str:
    """A run's name from the data's place: `novels` of `data/novels/*.txt.gz`."""
    plain = place.split("?")[0] if "://" in place else place
    parts = [part for part in re.split(r"[/\\]", plain.split("://")[-1]) if part not in ("", ".", "..", "**")]
    named = [part for part in parts if not re.search(r"[*?\[{]", part)] or [Path.cwd().name]
    is_file = bool(parts) and parts[-1] == named[-1]
    stem = re.sub(r"(?<=.)(\.[A-Za-z0-9]{1,8}){1,2}$", "", named[-1]) if is_file else named[-1]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:60]
    return name if name and name.lower() not in NAMES_OF_PLACES else "mine"


def _modality(data: Any) -> contract.Modality | None:
    """The modality, if the data's section is good enough to know it. Raises InputError for an option that it does not have."""
    if not isinstance(data, Mapping) or not data.get("sources") or not isinstance(fields := data.get("modality", {}), Mapping):
        return None
    options = dict(fields)
    kind = options.pop("kind", "text")
    return contract.load_modality(kind, options) if kind in contract.installed(contract.MODALITIES) else None


def _first_path(data: Mapping[str, Any]) -> str:
    first = data["sources"][0] if isinstance(data.get("sources"), list) else None
    return str(first.get("path", "")) if isinstance(first, Mapping) else ""


def _context(modality: contract.Modality) -> int:
    shape = modality.shape if isinstance(modality, contract.Values) else contract.UnitShape()
    return shape.grid[0] * shape.grid[1] if shape.grid else CONTEXT[not isinstance(modality, contract.Values)]
