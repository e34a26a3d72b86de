"""`quarantine`: the raw data of a run, a spec or a prepared folder that could not be used, with reasons."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from foundray.data.prepare.manifest import Prepared, Shard
from foundray.data.prepare.quarantine import LIST, Balance, Line, Reason, Tally, amount, read_lines
from foundray.data.prepare.recipe import prepared_folder
from foundray.errors import InputError
from foundray.runs.run import Run
from foundray.spec.loading import load_spec
from foundray.storage import Store
from foundray.training.driver import prepared_data
from foundray.wording.sentences import plain
from foundray.wording.shown import Shown
from foundray.wording.words import plural

VECTORS, BAD_ROWS = "embedding.json", "bad_rows.jsonl"
"""What `foundray embed` writes first, and where it lists what it could not use."""
_UNIT = re.compile(r"(?:(\d+)-)?(\d+)\.jsonl?")
"""The name of a unit's files: its source and number; vectors have one source."""


@dataclass(frozen=True)
class Quarantine(Shown):
    """The raw data that could not be used."""

    folder: str
    """The folder of prepared data, or of vectors, that holds the lists."""
    complete: bool
    """Whether all data was read; otherwise the lists cover what was read so far."""
    balance: Balance
    """How much was used, lost and empty."""
    reasons: list[Reason]
    """Lines grouped by reason, the most costly first."""
    lines: list[Line]
    """All lines, in the order of the data."""

    def table(self, limit: int) -> str:
        """Reasons by their cost, and the first lines."""
        balance, so_far = self.balance, "" if self.complete else " so far"
        left = [plural(balance.notes, "note")] if balance.notes else []
        left += [f"{balance.empty:,} empty"] if balance.empty else []
        if not self.lines:
            return f"{self.folder}: nothing is quarantined{so_far}" + (f" ({', '.join(left)})" if left else "")
        summary = ", ".join([f"{amount(balance.lost)} quarantined{so_far}", *left])
        rows = [(amount({one.unit: one.lost}) if one.lost else plural(one.lines, "note"), _worded(one)) for one in self.reasons]
        width = max(len(much) for much, _ in rows)
        shown = [f"{self.folder}: {summary}", "", *(f"{much:>{width}}  {plain(reason)}" for much, reason in rows)]
        if limit:
            shown += ["", *(_sentence(line) for line in self.lines[:limit])]
        if (rest := len(self.lines) - limit) > 0:
            shown.append(f"and {plural(rest, 'more line', 'more lines')}: --limit {len(self.lines)} shows all")
        return "\n".join(shown)

    def to_dict(self, limit: int | None = None) -> dict[str, Any]:
        """The report as an object, with the first `limit` lines."""
        return {
            "folder": self.folder,
            "complete": self.complete,
            "quarantined": self.balance.bad,
            **self.balance.model_dump(),
            "reasons": [reason.model_dump() for reason in self.reasons],
            "lines_in_all": len(self.lines),
            "lines": [line.model_dump() for line in self.lines[:limit]],
        }


def _worded(reason: Reason) -> str:
    return reason.reason if reason.wordings == 1 else f"{reason.reason} (the most common of {reason.wordings} wordings)"


def quarantine(what: str, overrides: Mapping[str, Any], source: int | None = None) -> Quarantine:
    """The raw data of a run, a spec or a folder of prepared data that could not be used; of one `source`, if given.

    Raises InputError if `what` is none of these, or if nothing of it has been read yet.
    """
    folder = _folder_of(what, overrides)
    parts = list(_of_vectors(folder) if (folder / VECTORS).exists() else _of_prepared(folder))
    if source is not None:
        known = sorted({index for index, _, _ in parts})
        if source not in known:
            there = ", ".join(map(str, known)) or "none"
            raise InputError(f"--source {source}: sources count from 0, and these were read so far: {there}")
        parts = [part for part in parts if part[0] == source]
    tally, lines = Tally(), [line for _, _, found in parts for line in found]
    for line in lines:
        tally.add_line(line)
    complete = (folder / "manifest.json").exists() or (folder / "complete.json").exists()
    return Quarantine(folder.url, complete, Balance.together(one for _, one, _ in parts), tally.reasons(), lines)


def _folder_of(what: str, overrides: Mapping[str, Any]) -> Store:
    """The folder that holds the lists. Raises InputError."""
    if Path(what).name == LIST and _holds_lists(place := Store.at(what).parent):
        return place
    if Path(what).is_file():
        folder = prepared_folder(load_spec(what, overrides))[0]
        if not _holds_lists(folder):
            raise InputError(f"nothing of the data of {what} has been read yet: `foundray prepare {what}` does so")
        return folder
    if overrides:
        raise InputError(f"--set {next(iter(overrides))}: it overrides a field of a spec, and {what} is not a spec file")
    if _holds_lists(place := Store.at(what)):
        return place
    try:
        run = Run.open(what)
    except InputError:
        raise InputError(
            f"{what} is neither a run (its folder, or its name in runs/), nor a spec file, nor a folder of prepared data or of "
            "vectors: `foundray prepare` prints the folder of the data it prepared"
        ) from None
    return prepared_data(run).folder


def _holds_lists(folder: Store) -> bool:
    inside = {place.name for place in folder.children()}
    return bool(inside & {VECTORS, "quarantine", LIST})


def _of_prepared(folder: Store) -> Iterator[tuple[int, Balance, list[Line]]]:
    """(source, balance, lines) of each unit that was read, in the order of the data."""
    names = _in_order(folder / "quarantine")
    if not names:  # a copy that holds only the whole list
        yield 0, Prepared.open(folder).manifest.balance(), list(read_lines(folder / LIST))
    for index, name in names:
        lines = list(read_lines(folder / f"quarantine/{name}.jsonl"))
        record = folder / f"units/{name}.json"
        yield index, _checked(Shard, record).balance if record.exists() else _balance(lines), lines


def _of_vectors(folder: Store) -> Iterator[tuple[int, Balance, list[Line]]]:
    """(source, balance, lines) of each part; one over the limit has a list of its own, and no record."""
    for index, name in _in_order(folder / "parts"):
        record = _checked(_Part, folder / f"parts/{name}.json")
        lost = _balance(record.bad)
        yield index, Balance(documents=record.rows, lost=lost.lost, empty=record.empty, notes=lost.notes), record.bad
    done = {name for _, name in _in_order(folder / "parts")}
    for index, name in _in_order(folder / "quarantine"):
        if name not in done:
            lines = list(read_lines(folder / f"quarantine/{name}.jsonl"))
            yield index, _balance(lines), lines


class _Part(BaseModel):
    """The fields used here of the record of an embedded part of the data."""

    rows: int
    bad: list[Line]
    empty: int = 0


def _in_order(folder: Store) -> list[tuple[int, str]]:
    """(source, name) of the units that have a file in a folder."""
    found = [(match, place.name.partition(".")[0]) for place in folder.children() if (match := _UNIT.fullmatch(place.name))]
    order = sorted(found, key=lambda one: (int(one[0][1] or 0), int(one[0][2])))
    return [(int(match[1] or 0), name) for match, name in order]


def _checked(model: type[Any], file: Store) -> Any:
    try:
        return model.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise InputError(f"{file} is damaged: {error.errors()[0]['msg']}") from None


def _balance(lines: list[Line]) -> Balance:
    tally = Tally()
    for line in lines:
        tally.add_line(line)
    return tally.balance


def _sentence(line: Line) -> str:
    where = f"{line.source}, {line.position}" if line.position else line.source
    much = f" ({amount({line.unit: line.lost})})" if line.lost else ""
    return f"{plain(where)}: {plain(line.reason)}{much}"
