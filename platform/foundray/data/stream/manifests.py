"""Manifests by their digest: a plan names one, and each process that needs it reads it once.

A manifest of 100,000 shards has some 35 MB. In the plan itself, every data task and every call with a plan would carry it.
"""

from __future__ import annotations

import threading

from foundray.data.prepare.manifest import Manifest, Prepared
from foundray.errors import InputError
from foundray.storage import Store, sha256

KEPT = 4
"""Manifests that a process keeps: it seldom needs a second one."""
_kept: dict[str, Manifest] = {}
_reading = threading.Lock()
"""Two threads of a process that need the same manifest read it once."""


def keep(manifest: Manifest) -> str:
    """Keep a manifest for this process, and return its digest, which does not depend on how its file is formatted."""
    digest = sha256(manifest.model_dump_json().encode())
    _kept.pop(digest, None)
    _kept[digest] = manifest
    for oldest in list(_kept)[:-KEPT]:
        del _kept[oldest]
    return digest


def manifest_of(folder: str, digest: str) -> Manifest:
    """The manifest of the data in `folder`, if it has this digest. Raises InputError if it has another or cannot be read."""
    with _reading:
        if (kept := _kept.get(digest)) is not None:
            return kept
        manifest = Prepared.open(Store.at(folder)).manifest
        if keep(manifest) != digest:
            raise InputError(f"the data in {folder} were prepared again since this command began; run it again")
        return manifest
