"""Removal of files that killed writers left in a run's folder, by the next command that holds the run."""

from __future__ import annotations

import os
import re
from pathlib import Path

from foundray.errors import InputError
from foundray.runs.checkpoints import MANIFEST, folders
from foundray.runs.run import BEGINNING, Run
from foundray.storage import Store

_TEMPORARY = re.compile(r"(.+)\.(\d+)\.tmp")


def clear(run: Run) -> str:
    """Remove shards of checkpoints that will never be complete, and temporary files. Returns the reason if that fails.

    Call it before a worker starts: other writers for this run are gone, or their work is void.
    """
    try:
        for checkpoint in folders(run.checkpoints):
            if not (checkpoint / MANIFEST).exists():
                checkpoint.delete_folder()
        for file in _temporary(run.folder):
            file.unlink(missing_ok=True)
    except (InputError, OSError) as error:
        return str(error)
    return ""


def _temporary(folder: Store) -> list[Path]:
    """Temporary files of other processes. Object stores have none: they never show an incomplete file.

    In the run's folder itself others write reports and judgements, too: those are left.
    """
    if not folder.is_local:
        return []
    root = Path(folder.path)
    there = [*root.glob("*.tmp"), *(root / "checkpoints").glob("*/*.tmp")]
    named = [(file, match) for file in there if (match := _TEMPORARY.fullmatch(file.name)) and int(match[2]) != os.getpid()]
    return [file for file, match in named if file.parent != root or match[1] in BEGINNING]
