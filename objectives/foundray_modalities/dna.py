"""Nucleotides: one token per base, read from either strand (HyenaDNA, Nguyen et al. 2023)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import Field

from foundray.contract import Modality, Units

COMPLEMENT = {"A": "T", "C": "G", "G": "C", "N": "N", "T": "A"}


class Dna(Modality):
    gives: ClassVar[str] = "tokens"
    public: ClassVar[tuple[str, ...]] = ("Nucleotide Transformer", "HyenaDNA", "Evo 2")
    alphabet: ClassVar[str | None] = "".join(COMPLEMENT)

    reverse_complement: float = Field(default=0.5, ge=0, le=1)
    """Fraction of samples read from the other strand."""

    def augment(self, units: Units, rng: np.random.Generator) -> Units:
        """Reverse-complement a sample of one sequence, after its opening token if it has one; others stay unchanged."""
        if rng.random() >= self.reverse_complement or units.document is not None:
            return units
        table = _complement(units.classes)
        opened = int(units.x[0] < units.classes - len(COMPLEMENT))
        return replace(units, x=np.concatenate([units.x[:opened], table[units.x[opened:][::-1]]]))


def _complement(classes: int) -> np.ndarray:
    """Table of complements, id by id. The letters have the last ids, in alphabetical order."""
    table = np.arange(classes)
    letters = sorted(COMPLEMENT)
    first = classes - len(letters)
    for index, letter in enumerate(letters):
        table[first + index] = first + letters.index(COMPLEMENT[letter])
    return table
