"""Versions, against what Foundray's own metadata asks."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from importlib.util import find_spec

from foundray.doctor.finding import Finding, judged

NAMED = ("ray", "torch", "bitsandbytes", "pyarrow")
"""Packages whose versions are shown where all is well."""
INSTALL = "install Foundray as a package: pip install -c constraints.txt '.[all]'"


def python() -> Finding:
    here = platform.python_version()
    try:
        asked = metadata("foundray")["Requires-Python"]
    except PackageNotFoundError:
        return Finding("python", "wrong", f"{here}, and no package foundray", INSTALL)
    oldest = tuple(map(int, re.findall(r"\d+", asked)[:2]))
    mend = f"Foundray asks for Python {asked}: make a virtual environment with that"
    return judged("python", f"{here} (asked: {asked})", sys.version_info < oldest, False, mend)


def required() -> list[Finding]:
    """One that is wrong is a finding of its own."""
    if find_spec("packaging") is None:
        return [Finding("packaging", "wrong", "not installed", INSTALL)]
    problems = list(_problems())
    if problems:
        return problems
    named = ", ".join(f"{name} {version(name)}" for name in NAMED)
    return [Finding("packages", "ok", f"all of the versions asked for; {named}")]


def _problems() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    try:
        asked = [Requirement(text) for text in requires("foundray") or []]
    except PackageNotFoundError:
        yield Finding("packages", "wrong", "what is asked for is not known", INSTALL)
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
            yield Finding(name, "wrong", f"{here} (asked: {requirement.specifier})", f"pip install '{right}'")
