"""`report`: one HTML page of a run, or of several side by side, that loads nothing and runs no script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from foundray.errors import InputError
from foundray.runs.run import Run
from foundray.storage import Store

PAGE = "report.html"


def report(runs: Sequence[Run], out: Store | None = None, say: Callable[[str], None] | None = None) -> Store:
    """Write a page of the runs, by default into the folder of a single run, otherwise into the current one. Return its path.

    Runs may be new, under way, failed or finished; damaged records are reported. Raises InputError if no run is named, or the
    page cannot be written.
    """
    # Imported here: drawing takes a second to import, and a wrong name should be refused at once.
    from foundray.reports.page import page
    from foundray.reports.story import Story

    if not runs:
        raise InputError("no run is named: name one or more, such as runs/shakespeare")
    place = out or (runs[0].folder if len(runs) == 1 else Store.at(Path.cwd())) / PAGE
    place.write_text(page([Story(run) for run in runs], place))
    if say:
        for run in runs:
            for sentence in run.damage():
                say(sentence)
    return place


def report_search(folder: Store, out: Store | None = None) -> Store:
    """Write a page of the finished search in `folder`, by default into it. Return its path. Raises InputError."""
    from foundray.reports.searching import search_page

    place = out or folder / PAGE
    place.write_text(search_page(folder, place))
    return place
