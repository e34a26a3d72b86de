"""Package the files that go to a cluster with a run: its spec, and the code that checked it here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import Distribution, entry_points
from pathlib import Path

from foundray.contract import MODALITIES, OBJECTIVES
from foundray.contract.tracking import TRACKERS
from foundray.errors import InputError

GROUPS = (OBJECTIVES, MODALITIES, TRACKERS)
"""Groups of entry points that make a package part of a run."""
CACHES = shutil.ignore_patterns("__pycache__", "*.pyc")


@contextmanager
def packed(files: Mapping[str, str], code: bool) -> Iterator[str]:
    """Make a working directory to send with a job; it exists during the block, and takes precedence over installed packages.

    With `code`, it contains Foundray and every installed package with an objective, a modality or a tracker, each with the
    metadata by which they are found. Raises InputError.
    """
    with tempfile.TemporaryDirectory() as name:
        _stage(Path(name), files, code)
        yield name


def _stage(folder: Path, files: Mapping[str, str], code: bool) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)
    for distribution in _distributions() if code else ():
        points = distribution.entry_points
        named = {point.module.split(".")[0] for point in points if point.group in GROUPS}
        for name in sorted(named | set((distribution.read_text("top_level.txt") or "").split())):
            _copy(name, folder)
        described = folder / f"{distribution.name.replace('-', '_')}-{distribution.version}.dist-info"
        described.mkdir()
        (described / "METADATA").write_text(str(distribution.metadata))
        (described / "entry_points.txt").write_text(distribution.read_text("entry_points.txt") or "")


def _distributions() -> list[Distribution]:
    points = [point for group in GROUPS for point in entry_points(group=group)]
    found = {point.dist.name: point.dist for point in points if point.dist}
    return [importlib.metadata.distribution("foundray"), *(found[name] for name in sorted(found) if name != "foundray")]


def _copy(name: str, folder: Path) -> None:
    spec = importlib.util.find_spec(name)
    if spec and spec.submodule_search_locations:
        shutil.copytree(spec.submodule_search_locations[0], folder / name, ignore=CACHES, dirs_exist_ok=True)
    elif spec and spec.origin:
        shutil.copy(spec.origin, folder)
    else:
        raise InputError(f"the installed package {name} cannot be found; install it again, or use --installed")
