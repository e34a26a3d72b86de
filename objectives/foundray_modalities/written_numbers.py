"""Parses numbers as people and programs write them: decimal points or commas, thousands separators, percent signs.

`1,234` alone is ambiguous, so a column is read by one rule: the one under which most of its values are numbers. If there are
several, the other columns of the file decide; what stays ambiguous is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

_EXPONENT = "(?:[eE][+-]?[0-9]+)?"
_SPACES = " '\u00a0\u2009\u202f\u2019"
"""Spaces and apostrophes, which separate thousands in many countries."""
_INFINITE = re.compile("[+-]?inf(?:inity)?", re.IGNORECASE)
_LIKE = re.compile(f"[+-]?[0-9.,{_SPACES}]*[0-9][0-9.,{_SPACES}]*{_EXPONENT}")
"""Texts that may be a number under some rule."""
TRUTH = {"true": 1.0, "false": 0.0}
_AFFIXED = re.compile(r"([+-]?)([$€£¥₹]?)\s*([+-]?.*?)\s*([%‰$€£¥₹]?)", re.DOTALL)


@dataclass(frozen=True)
class Rule:
    """A way to write numbers."""

    name: str
    """Name in messages; empty for plain numbers."""
    decimal: str
    """The decimal sign."""
    parts: str = ""
    """Possible thousands separators."""
    shape: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        whole = f"(?:[1-9][0-9]{{0,2}}(?:[{self.parts}][0-9]{{3}})+|[0-9]*)" if self.parts else "[0-9]*"
        fraction = f"(?:{re.escape(self.decimal)}[0-9]*)?"
        object.__setattr__(self, "shape", re.compile(f"[+-]?(?=[{self.decimal}]?[0-9]){whole}{fraction}{_EXPONENT}"))

    def reads(self, texts: Iterable[str]) -> np.ndarray:
        """Numbers [N] float64: NaN for texts that are not numbers, infinity if that is written."""
        plainly = str.maketrans({**dict.fromkeys(self.parts), self.decimal: "."})
        if self.decimal == "." and not self.parts:  # the most common case by far
            return np.array([float(text) if self.shape.fullmatch(text) else _infinite(text) for text in texts])
        found = (float(text.translate(plainly)) if self.shape.fullmatch(text) else _infinite(text) for text in texts)
        return np.array(list(found))


def _infinite(text: str) -> float:
    return float(text) if _INFINITE.fullmatch(text) else np.nan


PLAIN = Rule("", ".")
RULES = (
    PLAIN,
    Rule("decimal commas", ","),
    Rule("commas between thousands", ".", ","),
    Rule("points between thousands and decimal commas", ",", "."),
    Rule("spaces between thousands", ".", _SPACES),
    Rule("spaces between thousands and decimal commas", ",", _SPACES),
)
"""If several rules give the same numbers, messages name the first."""


@dataclass(frozen=True)
class Numbers:
    """A column of numbers."""

    values: np.ndarray
    """[N] float64; NaN for texts that are not numbers."""
    rule: str = ""
    """Name of the rule, if not plain numbers."""
    refused: str = ""
    """Why they are refused, although they are numbers under some rule."""

    @property
    def usable(self) -> bool:
        """Whether most values are numbers."""
        return not self.refused and bool(np.isfinite(self.values).mean() > 0.5) if len(self.values) else False


def looks_numeric(text: str) -> bool:
    """Whether a text may be a number under some rule."""
    return _LIKE.fullmatch(_bare(text.strip())[0]) is not None


def read_columns(columns: Sequence[Sequence[str]], decimal: str = "") -> list[Numbers]:
    """Read the columns of a file. `decimal` is its decimal sign, if the file's format suggests one."""
    texts = [[text.strip() for text in column] for column in columns]
    plain = [_truth(column) if _is_truth(column) else PLAIN.reads(column) for column in texts]
    # Most files have only plain numbers, which are unambiguous.
    if not any(map(_has_more_numbers, texts, plain)):
        return [Numbers(values) for values in plain]
    readings = [_Readings(column) for column in texts]
    sure = {sign for column in readings if (sign := column.sign)}
    sign = sure.pop() if len(sure) == 1 else decimal if not sure else ""
    return [
        Numbers(values) if _is_truth(column) else found.numbers(sign)
        for column, values, found in zip(texts, plain, readings, strict=True)
    ]


def _has_more_numbers(texts: list[str], values: np.ndarray) -> bool:
    return any(looks_numeric(texts[index]) for index in np.flatnonzero(np.isnan(values)))


class _Readings:
    """A column of texts, read under each rule."""

    def __init__(self, texts: list[str]):
        self.count = len(texts)
        bare = [_bare(text) for text in texts]
        # Zero needs no unit.
        self.affixes = {affix for text, affix in bare if _LIKE.fullmatch(text) and text.strip("+-0.,")}
        readings = [(rule, rule.reads(text for text, _ in bare)) for rule in RULES]
        most = max(np.isfinite(values).sum() for _, values in readings)
        self.plain = readings[0][1]
        self.best = [(rule, values) for rule, values in readings if most and np.isfinite(values).sum() == most]
        """(rule, values) of the rules under which most texts are numbers."""

    @property
    def sign(self) -> str:
        """Decimal sign, if it is unambiguous."""
        signs = {rule.decimal for rule, _ in self.best}
        return signs.pop() if len(signs) == 1 else ""

    def numbers(self, sign: str) -> Numbers:
        """Numbers under one rule; `sign` is the file's decimal sign, if known."""
        if not self.best:
            return Numbers(np.full(self.count, np.nan))
        rule, values = next((one for one in self.best if one[0].decimal == sign), self.best[0])
        if len(self.affixes) > 1:
            return Numbers(
                values, refused=f"its numbers have {' or '.join(affix or 'no sign' for affix in sorted(self.affixes))}"
            )
        if np.array_equal(values, self.plain, equal_nan=True):
            rule = PLAIN
        if rule is not PLAIN and rule.decimal != sign and (other := self._other_reading(values)) is not None:
            return Numbers(values, refused=f"it has {rule.name}, or {other or 'decimal points'}")
        named = [rule.name, *(f"in {affix}" for affix in self.affixes if affix)]
        return Numbers(values, rule=", ".join(filter(None, named)))

    def _other_reading(self, values: np.ndarray) -> str | None:
        """Name of a rule that gives as many numbers, but other ones, beyond a common factor, which standardising would undo."""
        for rule, others in self.best:
            if not np.allclose(_scaled(values), _scaled(others), 1e-12, 0, equal_nan=True):
                return rule.name
        return None


def _scaled(values: np.ndarray) -> np.ndarray:
    finite = np.where(np.isfinite(values), values, np.nan)
    return finite / (np.nanmax(np.abs(finite)) or 1)


def _bare(text: str) -> tuple[str, str]:
    """Split a text into (number, percent or currency sign)."""
    found = _AFFIXED.fullmatch(text.replace("\u2212", "-"))
    assert found is not None
    sign, prefix, number, suffix = found.groups()
    return sign + number, prefix + suffix


def _is_truth(texts: list[str]) -> bool:
    return any(texts) and all(text.lower() in TRUTH for text in texts if text)


def _truth(texts: list[str]) -> np.ndarray:
    return np.array([TRUTH.get(text.lower(), np.nan) for text in texts])
