"""What of the raw data could not be used: counted in the units that are missing, and listed with its reasons."""

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
"""In the folder of prepared data: the lists of its units, one after another."""
REASONS = 1000
"""Kinds of reasons that are told apart; the others are counted together."""
VARIANTS = 100
"""Wordings of one kind of reason that are told apart."""


class Line(BaseModel):
    """One damaged part of a file, as a quarantine lists it; a note about what was left out has `lost` 0."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    source: str
    """URL of the file."""
    position: str
    """Where in it."""
    reason: str
    lost: int = 1
    """Units that are missing. Lists that were made before these were counted say nothing: one row."""
    unit: str = "row"
    """The noun, in the singular, for what is missing."""

    def to_json(self) -> str:
        return json.dumps(self.model_dump()) + "\n"


def line_of(url: str, bad: BadRow) -> Line | None:
    """The line that lists a part of a file; None for what is empty, which is only counted."""
    if is_empty(bad):
        return None
    return Line(source=_text(url), position=_text(bad.position), reason=_text(bad.reason), lost=bad.lost, unit=bad.unit)


def _text(text: str) -> str:
    """Without half surrogate pairs, which file names and JSON can hold, and files of UTF-8 cannot."""
    return text.encode("utf-8", "backslashreplace").decode()


def is_empty(bad: BadRow) -> bool:
    return bad.lost == 0 and bad.reason == "empty"


def is_note(bad: BadRow) -> bool:
    """Whether it says what is left out on purpose, so that no row is missing in its place."""
    return bad.lost == 0 and not is_empty(bad)


def read_lines(file: Store) -> Iterator[Line]:
    """The lines of a list. Raises InputError for a damaged one."""
    for number, text in enumerate(file.read_bytes().split(b"\n"), 1):
        if not text:
            continue
        try:
            yield Line.model_validate_json(text)
        except ValidationError:
            raise InputError(f"{file}, line {number} is damaged: it is no line of a quarantine") from None


class Balance(BaseModel):
    """What became of the raw data: everything that was read is in one of these numbers."""

    documents: int = 0
    """Documents, or samples of a modality that has rows of its own, that are used."""
    lost: dict[str, int] = {}
    """Units that could not be used, by their noun in the singular."""
    empty: int = 0
    """Rows, documents and files without content."""
    notes: int = 0
    """Lines of the quarantine that say what was left out on purpose."""

    @property
    def bad(self) -> int:
        """Units that could not be used, of all kinds."""
        return sum(self.lost.values())

    def share(self) -> float:
        """Part of what was read, but for what is empty, that could not be used."""
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
    """Lines of a quarantine that say the same, but for numbers."""

    reason: str
    """As most of them word it."""
    unit: str
    lost: int
    lines: int
    first: str
    """Where the first of them is: file and position."""
    wordings: int = 1
    """How many wordings there are, which differ in numbers and quoted values."""


class Found(BaseModel):
    """A tally, for other processes."""

    balance: Balance = Balance()
    reasons: list[Reason] = []
    kinds: dict[str, int] = {}


@dataclass
class _Alike:
    """Lines of one kind, as they are counted."""

    first: str
    lost: int = 0
    lines: int = 0
    wordings: Counter[str] = field(default_factory=Counter)


class Tally:
    """A balance that grows line by line, with its reasons."""

    def __init__(self) -> None:
        self.balance = Balance()
        self.kinds = Counter[str]()
        """Endings of the files that have lines, a file once."""
        self._alike: dict[tuple[str, str, bool], _Alike] = {}
        self._file = ""

    def add(self, url: str, bad: BadRow) -> Line | None:
        """Count a part that a reader could not use; gives its line, but for what is empty."""
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
        """Count what another tally did."""
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
        if key not in self._alike and len(self._alike) >= REASONS:
            reason, key = "other reasons", ("other reasons", unit, lost > 0)
        alike = self._alike.setdefault(key, _Alike(where))
        alike.lost += lost
        alike.lines += lines
        if reason in alike.wordings or len(alike.wordings) < VARIANTS:
            alike.wordings[reason] += lines

    def reasons(self) -> list[Reason]:
        """Those that cost the most first, and notes last."""
        found = [
            Reason(
                reason=one.wordings.most_common(1)[0][0],
                unit=unit,
                lost=one.lost,
                lines=one.lines,
                first=one.first,
                wordings=len(one.wordings),
            )
            for (_, unit, _), one in self._alike.items()
        ]
        return sorted(found, key=lambda reason: (-reason.lost, -reason.lines))


def kind_of(reason: str) -> str:
    """A reason without what differs from line to line: numbers, what stands in quotes, and what follows a semicolon."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", reason.partition("; ")[0])
    return re.sub(r"0x[0-9a-fA-F]+|\d+([.,]\d+)*", "#", text)


def amount(lost: Mapping[str, int]) -> str:
    """`12 rows and 3 members`."""
    parts = [_counted(count, unit) for unit, count in sorted(lost.items(), key=lambda item: -item[1]) if count]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts) or "nothing"


def _counted(count: int, unit: str) -> str:
    several = unit if unit == "series" else f"{unit[:-1]}ies" if unit.endswith("y") else f"{unit}s"
    return f"{count:,} {unit if count == 1 else several}"


def summary(balance: Balance, listed: Store, folder: Store) -> str:
    """What was not used, for a line that counts what was: empty where there is nothing to say."""
    said = []
    if balance.lost:
        said.append(f"{amount(balance.lost)} quarantined")
    if balance.notes:
        said.append(_counted(balance.notes, "note"))
    if said:
        said[-1] += f" (list: {listed}, `foundray quarantine {folder}` shows it)"
    if balance.empty:
        said.append(f"{balance.empty:,} empty")
    return "".join(f", {part}" for part in said)
