"""Fill in the middle: next token, on texts whose middle part was moved to the end (Bavarian et al. 2022).

With probability `rate` the sample's longest document part is cut at two uniform positions, and the three parts are put into
one of two orders with equal probability: PSM `<pre> prefix <suf> suffix <mid> middle`, or SPM
`<pre> <suf> suffix <mid> prefix middle`. Every token is predicted, as in the paper.

Differs: the cut is made in the packed sample (the paper's context-level variant, which it found better), in only one of its
documents, and between tokens, not characters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
from pydantic import Field

from foundray.contract import Plan, Units
from foundray_objectives.next_token import NextToken

PREFIX, SUFFIX, MIDDLE = range(3)
"""The extra ids, after the data's own."""


class FillInMiddle(NextToken):
    scores: ClassVar[bool] = False
    prompts: ClassVar[Mapping[str, str]] = {
        "the middle, after prefix and suffix": "<|fim_prefix|>PREFIX<|fim_suffix|>SUFFIX<|fim_middle|>",
        "the middle, after suffix and prefix": "<|fim_prefix|><|fim_suffix|>SUFFIX<|fim_middle|>PREFIX",
    }

    rate: float = Field(default=0.5, ge=0, le=1)
    """Fraction of samples in which a document is rearranged."""

    @property
    def extra_tokens(self) -> tuple[str, ...]:
        return "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"

    def reads(self, context: int) -> int:
        return context - 3

    def plan(self, units: Units, rng: np.random.Generator) -> Plan:
        return super().plan(rearranged(units, rng) if rng.random() < self.rate else units, rng)


def rearranged(units: Units, rng: np.random.Generator) -> Units:
    """Reorder the parts of the longest document, which gains three ids. Its first token, which opens it, stays first."""
    document = np.zeros(len(units), np.int64) if units.document is None else units.document
    borders = [0, *(np.flatnonzero(np.diff(document)) + 1), len(units)]
    start, stop = max(pairwise(borders), key=lambda piece: piece[1] - piece[0])
    before, text, after = units.x[: start + 1], units.x[start + 1 : stop], units.x[stop:]
    first, second = np.sort(rng.integers(0, len(text) + 1, 2))
    prefix, middle, suffix = text[:first], text[first:second], text[second:]
    pre, suf, mid = ([units.classes + part] for part in (PREFIX, SUFFIX, MIDDLE))
    if rng.random() < 0.5:
        parts = [pre, prefix, suf, suffix, mid, middle]
    else:
        parts = [pre, suf, suffix, mid, prefix, middle]
    document = np.insert(document, start + 1, [document[start]] * 3)
    return replace(units, x=np.concatenate([before, *parts, after]), document=document)
