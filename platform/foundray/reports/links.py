"""Links between the pages of runs and searches, and to the folders of data and exports."""

from __future__ import annotations

import os
from urllib.parse import quote

from foundray.reports.story import Story
from foundray.runs.exported import exports_of
from foundray.storage import Store

Link = tuple[str, str]
"""What it leads to, and where that is."""


def href(target: Store, page: Store) -> str:
    """A link from a page to a place: relative if both are on this machine, so that a folder of runs can be moved."""
    if target.is_local and page.is_local:
        return quote(os.path.relpath(target.path, page.parent.path or "."))
    return target.url


def run_links(story: Story, page: Store) -> list[Link]:
    """What a run came from, and what came of it, as far as it is there."""
    found = list[Link]()
    if story.search:
        found.append(("the search for its hyperparameters", _page_or_folder(Store.at(story.search.folder), page)))
    if story.spec.init_from:
        found.append(("the run that its weights came from", _page_or_folder(_beside(story, story.spec.init_from.run), page)))
    if origin := story.spec.branch_from:
        found.append(
            (f"the run that it branched from, at step {origin.step:,}", _page_or_folder(_beside(story, origin.run), page))
        )
    if folder := story.data_folder:
        found.append(("its prepared data", href(folder, page)))
    for note in exports_of(story.run):
        found.append((f"its export as {note['form']}, step {note['step']:,}", href(Store.at(note["folder"]), page)))
    return found


def report_link(folder: Store, page: Store) -> str:
    """A link to the report in a folder; empty if there is none."""
    report = folder / "report.html"
    return href(report, page) if report.exists() else ""


def _beside(story: Story, run: str) -> Store:
    """The folder of another run: as the spec names it, or in the same storage."""
    named = Store.at(run)
    return named if named.exists() else story.run.folder.parent / named.name


def _page_or_folder(folder: Store, page: Store) -> str:
    return report_link(folder, page) or href(folder, page)
