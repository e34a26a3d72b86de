"""Where a run's exports are: a note in the run's folder for each, so that its page can link to them."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

from foundray.errors import FoundrayError
from foundray.runs.run import Run
from foundray.spec import digest
from foundray.storage import Store

EXPORTS = "exports"
"""Folder of the notes."""
KINDS = {"folder": str, "step": int, "form": str, "time": float}
"""Fields of a note."""


def note_export(run: Run, out: Store, step: int, form: str) -> None:
    """Note that the model after `step` is in the folder `out`, in this form. A run that cannot be written to has no note."""
    note = {"folder": out.url, "step": step, "form": form, "time": round(time.time(), 3)}
    with suppress(FoundrayError):
        (run.folder / EXPORTS / f"{digest(out.url)[:12]}.json").write_text(json.dumps(note, indent=1))


def exports_of(run: Run) -> list[dict[str, Any]]:
    """The notes of exports that are still there, the latest last."""
    files = [file for file in (run.folder / EXPORTS).children() if file.name.endswith(".json")]
    notes = [note for file in files if (note := _read(file)) and _may_be_there(note["folder"])]
    return sorted(notes, key=lambda note: note["time"])


def _read(file: Store) -> dict[str, Any] | None:
    """A note; None if it is damaged."""
    with suppress(FoundrayError, ValueError):
        note = json.loads(file.read_text())
        if isinstance(note, dict) and {name: type(note.get(name)) for name in KINDS} == KINDS:
            return note
    return None


def _may_be_there(folder: str) -> bool:
    """Whether an export is there, as far as its storage answers."""
    with suppress(FoundrayError):
        return Store.at(folder).exists()
    return True
