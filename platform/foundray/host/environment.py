"""The software that a command runs with: recorded for each run, because versions and kernels also decide bits."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("foundray", "ray", "torch", "bitsandbytes", "numpy", "pyarrow", "tokenizers")
"""Packages whose version can change a result or a run's behaviour."""


def environment() -> dict[str, str]:
    """Versions by name, and the platform. Contains no environment variables."""
    return {"python": platform.python_version(), **_versions(), "platform": platform.platform()}


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # a source tree on the path
            versions[name] = "not installed"
    return versions
