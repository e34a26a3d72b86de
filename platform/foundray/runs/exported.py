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


def note_export(run: Run, out: Store, step: int, form: str) -> None:
    """Note that the model after `step` is in the folder `out`, in this form. A run that cannot be written to has no note."""
    note = {"folder": out.url, "step": step, "form": form, "time": round(time.time(), 3)}
    with suppress(FoundrayError):
        (run.folder / EXPORTS / f"{digest(out.url)[:12]}.json").write_text(json.dumps(note, indent=1))


def exports_of(run: Run) -> list[dict[str, Any]]:
    """The notes of exports that are still there, the latest last."""
    files = [file for file in (run.folder / EXPORTS).children() if file.name.endswith(".json")]
    notes = sorted((json.loads(file.read_text()) for file in files), key=lambda note: note["time"])
    return [note for note in notes if Store.at(note["folder"]).exists()]
