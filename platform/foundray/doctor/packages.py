"""Checks of versions, against Foundray's own metadata."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from importlib.util import find_spec

from foundray.doctor.finding import Finding, judged

NAMED = ("ray", "torch", "bitsandbytes", "pyarrow")
"""Packages whose versions are shown if all is well."""
INSTALL = "install Foundray as a package: pip install -c constraints.txt '.[all]'"


def python() -> Finding:
    here = platform.python_version()
    try:
        asked = metadata("foundray")["Requires-Python"]
    except PackageNotFoundError:
        return Finding("python", "wrong", f"{here}, and no package foundray", INSTALL)
    oldest = tuple(map(int, re.findall(r"\d+", asked)[:2]))
    mend = f"Foundray needs Python {asked}: make a virtual environment with it"
    return judged("python", f"{here} (needed: {asked})", sys.version_info < oldest, False, mend)


def required() -> list[Finding]:
    """One finding for all required packages, or one for each that is wrong."""
    if find_spec("packaging") is None:
        return [Finding("packaging", "wrong", "not installed", INSTALL)]
    problems = list(_problems())
    if problems:
        return problems
    named = ", ".join(f"{name} {version(name)}" for name in NAMED)
    return [Finding("packages", "ok", f"all have the versions needed; {named}")]


def _problems() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    try:
        asked = [Requirement(text) for text in requires("foundray") or []]
    except PackageNotFoundError:
        yield Finding("packages", "wrong", "the requirements are not known", INSTALL)
        return
    for requirement in asked:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, right = requirement.name, f"{requirement.name}{requirement.specifier}"
        try:
            here = version(name)
        except PackageNotFoundError:
            yield Finding(name, "wrong", "not installed", f"pip install '{right}'")
            continue
        if not requirement.specifier.contains(here, prereleases=True):
            yield Finding(name, "wrong", f"{here} (needed: {requirement.specifier})", f"pip install '{right}'")
