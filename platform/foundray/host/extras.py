"""Packages that only some verbs need, by the extra of Foundray that installs them."""

from __future__ import annotations

from importlib.util import find_spec

from foundray.errors import InputError

EXTRAS = {"export": ("transformers",), "embed": ("faiss",), "probe": ("sklearn",), "report": ("jinja2",)}
"""Modules per extra. `control`, which one kind of task needs, is looked for there."""


def check_extra(name: str, *more: str) -> None:
    """Raises InputError if a module of the extra is not installed, or one of `more`, which an option of the verb needs."""
    for module in (*EXTRAS[name], *more):
        if find_spec(module) is None:
            raise InputError(f"this needs the package {module}, which is not installed: pip install 'foundray[{name}]'")
