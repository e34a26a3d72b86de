"""What a validation loss means, if it is the data's own likelihood: bits per byte of text, and perplexity per token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from foundray.spec import Spec
from foundray.wording.words import source_label


@dataclass(frozen=True)
class BytesPerToken:
    """UTF-8 bytes of text per predicted token."""

    whole: float
    """Of all sources together; 0 if the data is no text."""
    sources: tuple[float, ...] = ()
    """Of each source."""
    sets: Mapping[str, float] = field(default_factory=dict)
    """Of each further validation set, by name."""


def with_meaning(record: dict[str, Any], spec: Spec, size: BytesPerToken | None) -> dict[str, Any]:
    """An evaluation's record with the names of its sources, and bits per byte and perplexity.

    `size` is None if the loss is not the data's likelihood.
    """
    found = {**record, **_meaning(record["val_loss"], size, size.whole if size else 0.0)}
    if parts := record.get("sources"):
        found["sources"] = [_named(part, spec, size) for part in parts]
    if sets := record.get("sets"):
        of_set = size.sets if size else {}
        found["sets"] = [{**one, **_meaning(one["loss"], size, of_set.get(one["name"], 0.0))} for one in sets]
    return found


def _named(part: dict[str, Any], spec: Spec, size: BytesPerToken | None) -> dict[str, Any]:
    index = part["source"]
    of_source: Sequence[float] = size.sources if size else ()
    name = source_label(index, spec.data.sources[index].path)
    return {**part, "name": name, **_meaning(part["loss"], size, of_source[index] if index < len(of_source) else 0.0)}


def _meaning(loss: float, size: BytesPerToken | None, bytes_per_token: float) -> dict[str, float]:
    if size is None:
        return {}
    bits = {"bits_per_byte": loss / math.log(2) / bytes_per_token} if bytes_per_token else {}
    return bits | {"perplexity": perplexity(loss)}


def perplexity(loss: float) -> float:
    """Exponential of a loss in nats per token; infinite if it does not fit a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
