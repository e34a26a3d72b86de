"""Span corruption: predict the spans missing from a text (Raffel et al. 2020, T5).

Spans are drawn as in T5: 15 % of the tokens, in spans of mean length 3, each replaced by its own sentinel.

Differs: for one causal decoder, input and target are one sequence, `[corrupted text] <s0> span <s1> span ... <sn>`, with
loss on the second part only (as in UL2's decoder variant, Tay et al. 2022). A sample's documents count as one text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field, PositiveInt

from foundray.contract import Objective, Plan, Target, Units, UnitShape, cross_entropy

if TYPE_CHECKING:
    from torch import Tensor


class SpanCorruption(Objective):
    becomes: ClassVar[str] = "causal_lm"
    separable: ClassVar[bool] = True
    extra_stand_for_text: ClassVar[bool] = True
    loss_unit: ClassVar[str] = "nats per token"
    prompts: ClassVar[Mapping[str, str]] = {
        "the missing parts of a text, each after its sentinel": "TEXT<|span_0|>TEXT<|span_1|>TEXT<|span_0|>"
    }

    ratio: float = Field(default=0.15, gt=0, lt=1)
    """Fraction of the tokens that is removed."""
    span: float = Field(default=3.0, ge=1)
    """Mean length of a span, in tokens."""
    sentinels: PositiveInt = 100
    """Number of sentinel ids; a sample has at most one span fewer."""

    @property
    def extra_tokens(self) -> tuple[str, ...]:
        return tuple(f"<|span_{index}|>" for index in range(self.sentinels))

    def spans(self, length: int) -> tuple[int, int]:
        """(missing tokens, spans) for a text of `length` tokens."""
        missing = min(max(1, round(length * self.ratio)), length - 1)
        return missing, max(1, min(round(missing / self.span), length - missing, self.sentinels - 1))

    def reads(self, context: int) -> int:
        return max(length for length in range(2, context) if length + 2 * self.spans(length)[1] <= context)

    def heads(self, shape: UnitShape) -> dict[str, int]:
        return {"lm_head": shape.classes}

    def plan(self, units: Units, rng: np.random.Generator) -> Plan:
        text = units.x[:-1] if len(units) > 2 else units.x
        missing, spans = self.spans(len(text))
        kept, removed = _parts(len(text) - missing, spans, rng), _parts(missing, spans, rng)
        shown: list[np.ndarray] = []
        target: list[np.ndarray] = []
        at = 0
        for index, (keep, remove) in enumerate(zip(kept, removed, strict=True)):
            sentinel = np.array([units.classes + index])
            shown += [text[at : at + keep], sentinel]
            target += [sentinel, text[at + keep : at + keep + remove]]
            at += keep + remove
        x = np.concatenate([*shown, *target, [units.classes + spans]])
        loss_mask = np.arange(1, len(x)) >= sum(map(len, shown))
        return Plan(replace(units, x=x[:-1], document=None), (Target("lm_head", x[1:], loss_mask),))

    def loss(self, prediction: Tensor, target: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
        return cross_entropy(prediction, target, loss_mask)


def _parts(total: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Split `total` into `count` positive numbers, all splits equally likely."""
    cuts = np.sort(rng.permutation(total - 1)[: count - 1]) + 1
    return np.diff([0, *cuts, total])
