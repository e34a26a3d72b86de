"""The numbers of records that are drawn as curves, by the names that TensorBoard and trackers show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foundray.records.schema import MEASURES

SCALARS = (*MEASURES, "lr", "tokens_per_s", "workers")
"""Fields of a step."""
MEASURED = ("bits_per_byte", "perplexity", "feature_spread", "effective_rank")
"""Fields of an evaluation besides the loss."""

HEALTH = ("weight_rms", "gradient_rms", "update_rms", "attention_logit_max", "dead_units")
"""Fields of a layer, at an evaluation."""


def step_values(record: Mapping[str, Any]) -> dict[str, float]:
    """A step's numbers: `train/...`, and `time/...` in seconds."""
    computing = record["step_s"] - record["data_wait_s"]
    times = {"computing_s": computing, "data_wait_s": record["data_wait_s"], "copying_s": record["copy_s"]}
    values = {f"train/{name}": value for name in SCALARS if (value := record.get(name)) is not None}
    return values | {f"time/{name}": value for name, value in times.items()}


def evaluation_values(event: Mapping[str, Any]) -> dict[str, float]:
    """An evaluation's numbers: `validation/...`, also of each source and set, `tasks/NAME/...` and `health/.../LAYER`."""
    measured = {"loss": event["val_loss"], **{name: event.get(name) for name in MEASURED}}
    for part in (*(event.get("sources") or ()), *(event.get("sets") or ())):
        measured |= {f"{name}/{part['name']}": part.get(name) for name in ("loss", "bits_per_byte")}
    values = {f"validation/{name}": value for name, value in measured.items() if value is not None}
    for task in event.get("tasks") or ():
        values |= {f"tasks/{task['name']}/{name}": value for name, value in task["measures"].items()}
    for one in event.get("health") or ():
        of_layer = {name: one.get(name) for name in HEALTH}
        values |= {f"health/{name}/{one['layer']}": value for name, value in of_layer.items() if value is not None}
    return values
