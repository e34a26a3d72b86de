"""Admission: the checks that every node must pass before a run begins."""

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
from foundray.wording.words import plural

if TYPE_CHECKING:
    from foundray.data.files.files import RawFile

ADMITTED = "admitted: "
"""Start of the line that reports success; `submit` waits for it."""
EXPECTED = "FOUNDRAY_EXPECTED_CODE"
"""Environment variable with the digest of the submitting code, if that code does not travel with the job."""


def admit(ray: object, spec: Spec, report: Callable[[str], None], raw: bool = True) -> None:
    """Check, on an existing cluster, that all nodes can take part. Raises InputError.

    `raw`: whether the raw sources are still needed.
    """
    if os.environ.get("RAY_ADDRESS"):
        admit_storage(ray, spec.storage, source_files(spec) if raw else {}, report)


def admit_storage(ray: object, storage: str, sources: Mapping[str, Sequence[RawFile]], report: Callable[[str], None]) -> None:
    """Check, on an existing cluster, that all nodes reach `storage` and the files of `sources`. Raises InputError."""
    if not os.environ.get("RAY_ADDRESS"):
        return
    if (expected := os.environ.get(EXPECTED)) and expected != code():
        raise InputError(
            f"the cluster has foundray {code()}, and the run was submitted with {expected}: install that version there, "
            "or submit without --installed"
        )
    if problems := unreachable(storage, sources):
        raise InputError(problems[0])
    nodes = f"of {plural(len(node_resources()), 'node')}, all that answer and can work"
    report(f"{ADMITTED}{nodes} reach {plain(storage)}{' and the data' if sources else ''}")
