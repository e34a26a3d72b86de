"""Letting a run in: what a cluster must have before anything is begun on it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from foundray.cluster import node_resources
from foundray.errors import InputError
from foundray.spec import Spec

ADMITTED = "admitted: "
"""How the line begins that says so: whoever submitted the run waits for it."""
EXPECTED = "FOUNDRAY_EXPECTED_CODE"
"""The variable that holds the digest of the code that a job was submitted with, where that did not travel."""


def digest_of_code() -> str:
    """Of Foundray as it is installed here: its version, and a SHA-256 over its source files."""
    root = Path(__file__).parent
    hashed = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        hashed.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return f"{version('foundray')} ({hashed.hexdigest()[:12]})"


def admit(ray: object, spec: Spec, report: Callable[[str], None]) -> None:
    """On a cluster that was there before, look whether all of its nodes can take part. Raises InputError."""
    if not os.environ.get("RAY_ADDRESS"):
        return
    if (expected := os.environ.get(EXPECTED)) and expected != digest_of_code():
        raise InputError(
            f"the cluster has foundray {digest_of_code()}, and the run was submitted with {expected}: install that there, or "
            "submit without --installed"
        )
    report(f"{ADMITTED}{len(node_resources(ray))} node(s)")
