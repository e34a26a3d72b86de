"""What a command runs with: kept in a run's record, since versions and kernels decide bits too."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("foundray", "ray", "torch", "bitsandbytes", "numpy", "pyarrow", "tokenizers")
"""Those whose version can change a result, or how a run behaves."""


def environment() -> dict[str, str]:
    """Versions by name, and the platform. Nothing of the machine's environment variables."""
    return {"python": platform.python_version(), **_versions(), "platform": platform.platform()}


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a source tree on the path
            found[name] = "not installed"
    return found
