"""Quarantine: raw data that could not be used, counted in missing units and listed with reasons."""

from __future__ import annotations

import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, ValidationError

from foundray.data.files.names import bare
from foundray.data.formats.row import BadRow
from foundray.errors import InputError
from foundray.storage import Store

LIST = "quarantine.jsonl"
"""File in the folder of prepared data with the lists of all units, one after another."""
REASONS = 1000
"""Most kinds of reasons counted separately; the others are counted together."""
VARIANTS = 100
"""Most wordings of one kind of reason counted separately."""


class Line(BaseModel):
    """Quarantine line for one damaged part of a file. A note about what was left out on purpose has `lost` 0."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    source: str
    """URL of the file."""
    position: str
    """Position in the file."""
    reason: str
    lost: int = 1
    """Missing units. Older lists do not have this field: one row."""
    unit: str = "row"
    """Singular noun for what is missing."""

    def to_json(self) -> str:
        return json.dumps(self.model_dump()) + "\n"


def line_of(url: str, bad: BadRow) -> Line | None:
    """Line for a part of a file; None if it is empty, which is only counted."""
    if is_empty(bad):
        return None
    return Line(source=_text(url), position=_text(bad.position), reason=_text(bad.reason), lost=bad.lost, unit=bad.unit)


def _text(text: str) -> str:
    """Escape half surrogate pairs, which file names and JSON can contain, and UTF-8 cannot."""
    return text.encode("utf-8", "backslashreplace").decode()


def is_empty(bad: BadRow) -> bool:
    return bad.lost == 0 and bad.reason == "empty"


def is_note(bad: BadRow) -> bool:
    """Whether this is a note about what was left out on purpose, so that no row is missing."""
    return bad.lost == 0 and not is_empty(bad)


def read_lines(file: Store) -> Iterator[Line]:
    """Yield the lines of a list. Raises InputError for a damaged one."""
    for number, text in enumerate(file.read_bytes().split(b"\n"), 1):
        if not text:
            continue
        try:
            yield Line.model_validate_json(text)
        except ValidationError:
            raise InputError(f"{file}, line {number} is damaged: it is not a quarantine line") from None


class Balance(BaseModel):
    """What became of the raw data. Everything that was read counts in one of these numbers."""

    documents: int = 0
    """Documents used, or samples of a modality that has its own rows."""
    lost: dict[str, int] = {}
    """Units that could not be used, by singular noun."""
    empty: int = 0
    """Rows, documents and files without content."""
    notes: int = 0
    """Quarantine lines about what was left out on purpose."""

    @property
    def bad(self) -> int:
        """Units that could not be used, of all kinds."""
        return sum(self.lost.values())

    def share(self) -> float:
        """Fraction of what was read, empty parts aside, that could not be used."""
        return self.bad / max(1, self.bad + self.documents)

    @staticmethod
    def together(balances: Iterable[Balance]) -> Balance:
        whole, lost = Balance(), Counter[str]()
        for one in balances:
            whole.documents += one.documents
            whole.empty += one.empty
            whole.notes += one.notes
            lost.update(one.lost)
        whole.lost = dict(lost)
        return whole


class Reason(BaseModel):
    """Quarantine lines with the same reason, up to numbers and quoted values."""

    reason: str
    """The most frequent wording."""
    unit: str
    lost: int
    lines: int
    first: str
    """File and position of the first one."""
    wordings: int = 1
    """Number of wordings, which differ in numbers and quoted values."""


class Found(BaseModel):
    """Content of a tally, to send to another process."""

    balance: Balance = Balance()
    reasons: list[Reason] = []
    kinds: dict[str, int] = {}


@dataclass
class _ReasonCount:
    """Running count of the lines of one kind of reason."""

    first: str
    lost: int = 0
    lines: int = 0
    wordings: Counter[str] = field(default_factory=Counter)


class Tally:
    """Running balance, with its reasons."""

    def __init__(self) -> None:
        self.balance = Balance()
        self.kinds = Counter[str]()
        """Name endings of the files that have lines, each file counted once."""
        self._reason_counts: dict[tuple[str, str, bool], _ReasonCount] = {}
        self._file = ""

    def add(self, url: str, bad: BadRow) -> Line | None:
        """Count a part that a reader could not use, and return its line; None if it is empty."""
        if (line := line_of(url, bad)) is None:
            self.balance.empty += 1
        else:
            self.add_line(line)
        return line

    def add_line(self, line: Line) -> None:
        if line.lost and line.source != self._file:
            self._file = line.source
            self.kinds[posixpath.splitext(bare(posixpath.basename(line.source)))[1] or "no ending"] += 1
        where = f"{line.source}, {line.position}" if line.position else line.source
        self._count(line.reason, line.unit, line.lost, 1, where)

    def add_found(self, found: Found) -> None:
        """Add the counts of another tally."""
        for one in found.reasons:
            self._count(one.reason, one.unit, one.lost, one.lines, one.first)
        self.balance.documents += found.balance.documents
        self.balance.empty += found.balance.empty
        self.kinds.update(found.kinds)

    def found(self) -> Found:
        return Found(balance=self.balance, reasons=self.reasons(), kinds=dict(self.kinds))

    def _count(self, reason: str, unit: str, lost: int, lines: int, where: str) -> None:
        if lost:
            self.balance.lost[unit] = self.balance.lost.get(unit, 0) + lost
        else:
            self.balance.notes += lines
        key = kind_of(reason), unit, lost > 0
        if key not in self._reason_counts and len(self._reason_counts) >= REASONS:
            reason, key = "other reasons", ("other reasons", unit, lost > 0)
        count = self._reason_counts.setdefault(key, _ReasonCount(where))
        count.lost += lost
        count.lines += lines
        if reason in count.wordings or len(count.wordings) < VARIANTS:
            count.wordings[reason] += lines

    def reasons(self) -> list[Reason]:
        """Reasons, those that lost the most first, and notes last."""
        found = [
            Reason(
                reason=one.wordings.most_common(1)[0][0],
                unit=unit,
                lost=one.lost,
                lines=one.lines,
                first=one.first,
                wordings=len(one.wordings),
            )
            for (_, unit, _), one in self._reason_counts.items()
        ]
        return sorted(found, key=lambda reason: (-reason.lost, -reason.lines))


def kind_of(reason: str) -> str:
    """The reason without what differs from line to line: numbers, quoted values, and what follows a semicolon."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", reason.partition("; ")[0])
    return re.sub(r"0x[0-9a-fA-F]+|\d+([.,]\d+)*", "#", text)


def amount(lost: Mapping[str, int]) -> str:
    """Missing units in words: `12 rows and 3 members`."""
    parts = [_counted(count, unit) for unit, count in sorted(lost.items(), key=lambda item: -item[1]) if count]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts) or "nothing"


def _counted(count: int, unit: str) -> str:
    plural = unit if unit == "series" else f"{unit[:-1]}ies" if unit.endswith("y") else f"{unit}s"
    return f"{count:,} {unit if count == 1 else plural}"


def summary(balance: Balance, listed: Store, folder: Store) -> str:
    """What was not used, to append to a line that counts what was; empty if there is nothing to say."""
    parts = []
    if balance.lost:
        parts.append(f"{amount(balance.lost)} quarantined")
    if balance.notes:
        parts.append(_counted(balance.notes, "note"))
    if parts:
        parts[-1] += f" (list: {listed}, `foundray quarantine {folder}` shows it)"
    if balance.empty:
        parts.append(f"{balance.empty:,} empty")
    return "".join(f", {part}" for part in parts)
