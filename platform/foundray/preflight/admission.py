"""Letting a run in: what a cluster must have before anything is begun on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from foundray.cluster.connect import node_resources
from foundray.errors import InputError
from foundray.preflight.checkup import source_files, unreachable
from foundray.preflight.checkup.probe import code
from foundray.spec import Spec
from foundray.wording.sentences import plain

if TYPE_CHECKING:
    from foundray.data.files.files import RawFile

ADMITTED = "admitted: "
"""How the line begins that says so: whoever submitted the run waits for it."""
EXPECTED = "FOUNDRAY_EXPECTED_CODE"
"""The variable that holds the digest of the code that a job was submitted with, where that did not travel."""


def admit(ray: object, spec: Spec, report: Callable[[str], None], raw: bool = True) -> None:
    """On a cluster that was there before, look whether all of its nodes can take part. Raises InputError.

    `raw`: whether the raw sources are still needed.
    """
    if os.environ.get("RAY_ADDRESS"):
        admit_places(ray, spec.storage, source_files(spec) if raw else {}, report)


def admit_places(ray: object, storage: str, sources: Mapping[str, Sequence[RawFile]], report: Callable[[str], None]) -> None:
    """The same where its work is in `storage`, and needs the files of these sources. Raises InputError."""
    if not os.environ.get("RAY_ADDRESS"):
        return
    if (expected := os.environ.get(EXPECTED)) and expected != code():
        raise InputError(
            f"the cluster has foundray {code()}, and the run was submitted with {expected}: install that there, or "
            "submit without --installed"
        )
    if problems := unreachable(storage, sources):
        raise InputError(problems[0])
    nodes = f"{len(node_resources())} node(s), of which all that answer and can work"
    report(f"{ADMITTED}{nodes} reach {plain(storage)}{' and the data' if sources else ''}")
