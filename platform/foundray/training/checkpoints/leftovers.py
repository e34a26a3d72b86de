"""What writers that were killed have left in a run's folder, removed by the next command that holds the run."""

from __future__ import annotations

import os
import re
from pathlib import Path

from foundray.errors import InputError
from foundray.runs.checkpoints import MANIFEST, folders
from foundray.runs.run import Run
from foundray.storage import Store

OURS = {"spec.yaml", "data.json", "tokenizer.json", "start.safetensors", "holder.json"}
"""Files of a run's folder that only the command which holds it writes; reports and judgements are written by others, too."""
_TEMPORARY = re.compile(r"(.+)\.(\d+)\.tmp")


def clear(run: Run) -> str:
    """Remove shards of checkpoints that will never be complete, and temporary files. Gives why not, if that fails.

    Call it before a member is started: whoever else wrote for this run is gone, or does so for nothing.
    """
    try:
        for place in folders(run.checkpoints):
            if not (place / MANIFEST).exists():
                place.delete_folder()
        for file in _temporary(run.folder):
            file.unlink(missing_ok=True)
    except (InputError, OSError) as error:
        return str(error)
    return ""


def _temporary(folder: Store) -> list[Path]:
    """Object stores have none: a file that is not whole is not shown there."""
    if not folder.is_local:
        return []
    root = Path(folder.path)
    there = [*root.glob("*.tmp"), *(root / "checkpoints").glob("*/*.tmp")]
    named = [(file, match) for file in there if (match := _TEMPORARY.fullmatch(file.name)) and int(match[2]) != os.getpid()]
    return [file for file, match in named if file.parent != root or match[1] in OURS]
