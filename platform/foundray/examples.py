"""The examples: where they are, and where each one's data comes from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from foundray.errors import InputError
from foundray.fetching import DataSet, load_data_set
from foundray.fetching import fetch as fetch_files
from foundray.spec import nearest
from foundray.wording.words import plural, size

FOLDERS = (Path("examples"), Path(__file__).parents[2] / "examples", Path(sys.prefix) / "share" / "foundray" / "examples")
"""Where examples are looked for: here, in the repository, and where an installation puts them."""


@dataclass(frozen=True)
class Example:
    folder: Path
    data: DataSet

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def how(self) -> str:
        """How to get its data, as the end of a sentence."""
        if self.data.how:
            return self.data.how
        if self.data.uses:
            return " and ".join(f"`foundray fetch {name}`" for name in self.data.uses)
        return f"`foundray fetch {self.name}`"

    def lines(self) -> list[str]:
        """What to tell about its data."""
        files = self.data.files.values()
        amount = f" ({plural(len(files), 'file')}, {size(sum(file.bytes for file in files))})" if files else ""
        return [f"data: {' '.join(self.data.origin.split())}{amount}", f"licence: {self.data.licence}", f"get it: {self.how}"]

    def row(self) -> str:
        """A line of the list of examples."""
        files = self.data.files.values()
        amount = size(sum(file.bytes for file in files)) if files else "made" if self.data.how else "others'"
        return f"{self.name:25} {amount:>9}  {' '.join(self.data.origin.split())[:70]}"


def find(name: str) -> Example:
    """The example of a name, or in a folder. Raises InputError for an unknown one."""
    known = {example: folder for folder in reversed(FOLDERS) for example in _names(folder)}
    places = [Path(name), *(folder / name for folder in FOLDERS)]
    found = next((place for place in places if (place / "data.yaml").is_file()), None)
    if found is None:
        listed = f"; there are: {', '.join(sorted(known))}" if known else " and no examples/ is here: stand in the repository"
        raise InputError(f"there is no example {name!r}{nearest(name, sorted(known))}{listed}")
    return Example(found.absolute(), load_data_set(found / "data.yaml"))


def fetch(name: str, to: Path, mirror: Path | None = None, report: Callable[[str], None] = lambda line: None) -> Path:
    """Get the data of an example, or say how to make it; return its folder in `to`. Raises InputError."""
    example = find(name)
    for other in example.data.uses:
        fetch(other, to, mirror, report)
    if example.data.how:
        report(f"{example.name}: {example.how}")
    if example.data.files:
        return fetch_files(example.folder, to, mirror, report)
    return to / example.name


def every() -> list[Example]:
    """All examples, by name. Raises InputError if none are installed."""
    names = sorted({name for folder in FOLDERS for name in _names(folder)})
    if not names:
        raise InputError("no examples are installed: stand in the repository, or give the folder of one")
    return [find(name) for name in names]


def _names(folder: Path) -> Iterator[str]:
    return (file.parent.name for file in folder.glob("*/data.yaml"))
