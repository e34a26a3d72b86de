"""MkDocs' hook that fills the navigation's empty parts from the folders' pages, so that a new page needs no entry here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDERS = {
    "How to": ("docs/how-to",),
    "Examples": ("examples", "clusters", "dashboards"),
    "Tours": ("docs/tours",),
    "Design records": ("docs/design",),
}


def on_config(config: Any) -> Any:
    _fill(config["nav"], Path(config["docs_dir"]))
    return config


def _fill(entries: list[Any], pages: Path) -> None:
    for entry in entries:
        for title, inside in entry.items() if isinstance(entry, dict) else ():
            if title in FOLDERS:
                entry[title] = [page for folder in FOLDERS[title] for page in _pages(pages, folder)]
            elif isinstance(inside, list):
                _fill(inside, pages)


def _pages(pages: Path, folder: str) -> list[str]:
    """Pages below a folder, its own first."""
    found = sorted((pages / folder).rglob("*.md"), key=lambda page: (len(page.parts), page.name != "README.md", page))
    return [page.relative_to(pages).as_posix() for page in found]
