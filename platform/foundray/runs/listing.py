"""The runs of a storage folder: where each stands, and how much room it takes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from foundray.errors import InputError
from foundray.runs.facts import facts_of
from foundray.runs.run import Run
from foundray.storage import Store
from foundray.wording.words import duration, plural, size


@dataclass(frozen=True)
class Listed:
    """A run of a storage folder."""

    name: str
    run: str
    """Its folder."""
    state: str
    """As in `Facts`; `damaged` if its folder cannot be read."""
    step: int | None
    steps: int | None
    """Steps of the whole run."""
    loss: float | None
    """Training loss of the last step, in the unit of its objective: nats per token, squared error per value."""
    val_loss: float | None
    """Last validation loss, in the same unit."""
    age_s: float | None
    """Seconds since its last record; None if it has none."""
    bytes: int
    """Size of its folder."""
    problem: str = ""
    """Why it cannot be read."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def runs_in(storage: Store) -> list[Listed]:
    """The runs of a storage folder, by name. Raises InputError if there is no such folder."""
    if not storage.exists():
        raise InputError(f"{storage} is not there: name the folder that a spec's `storage` names, such as runs")
    return [_listed(run) for run in map(Run, storage.children()) if run.exists()]


def _listed(run: Run) -> Listed:
    last: list[float] = []

    def noted(story: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for record in story:
            last[:] = [record["time"]]
            yield record

    room = bytes_of(run.folder)
    try:
        spec = run.spec()
        facts = facts_of(run.folder, spec, noted(run.story()))
    except InputError as error:
        return Listed(run.folder.name, run.folder.url, "damaged", None, None, None, None, None, room, str(error))
    age = max(0.0, time.time() - last[0]) if last else None
    length = facts.step, spec.train.steps
    return Listed(run.folder.name, run.folder.url, facts.state, *length, facts.loss, facts.val_loss, age, room)


def bytes_of(folder: Store) -> int:
    """Size of all files in a folder and the folders in it."""
    files = folder.files()
    return sum(files.values()) + sum(bytes_of(child) for child in folder.children() if child.name not in files)


def table(runs: Sequence[Listed]) -> str:
    """The runs as a table of text."""
    head = ("run", "state", "step", "loss", "validation", "last record", "size")
    rows = [head, *map(_row, runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *(f"{one.name}: {one.problem}" for one in runs if one.problem)])


def _row(one: Listed) -> tuple[str, ...]:
    step = "" if one.step is None else f"{one.step:,} of {one.steps:,}"
    losses = ("" if loss is None else f"{loss:.4f}" for loss in (one.loss, one.val_loss))
    ago = "" if one.age_s is None else f"{duration(one.age_s)} ago"
    return one.name, one.state, step, *losses, ago, size(one.bytes)


def total(runs: Sequence[Listed]) -> str:
    """`3 runs, 1.2 GB`."""
    return f"{plural(len(runs), 'run')}, {size(sum(one.bytes for one in runs))}"
