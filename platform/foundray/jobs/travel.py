"""Translate a spec for a cluster: paths as the cluster's nodes find them, and the matching command-line flags."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundray.errors import InputError
from foundray.spec import Spec
from foundray.spec.loading import load_spec
from foundray.storage import Store, check_no_secret


def travelling(target: str, overrides: Mapping[str, Any], on_this_machine: bool) -> tuple[Spec, str]:
    """Return the spec as the cluster sees it, and the flags that turn its file into that spec. Raises InputError."""
    spec = load_spec(target, overrides)
    sources = {f"data.sources.{index}.path": source.path for index, source in enumerate(spec.data.sources)}
    tokenizer = {"data.tokenizer.path": spec.data.tokenizer.path} if spec.data.tokenizer.path else {}
    sets = {f"evaluate.sets.{name}.path": one.path for name, one in spec.evaluate.others.items() if one.path}
    tasks = {f"evaluate.tasks.{name}.path": task.path for name, task in spec.evaluate.tasks.items()}
    places = {"storage": spec.storage, **sources, **tokenizer, **sets, **tasks}
    there = {**overrides, **{name: found_there(name, place, on_this_machine) for name, place in places.items()}}
    if start := spec.init_from:  # as a whole: the file may give only the folder
        run = found_there("init_from.run", start.run, on_this_machine)
        there = {name: value for name, value in there.items() if not name.startswith("init_from.")}
        there["init_from"] = start.model_dump(exclude_none=True) | {"run": run}
    return load_spec(target, there), flags_of(there)


def overrides_there(overrides: Mapping[str, Any], on_this_machine: bool) -> dict[str, Any]:
    """Overrides of an existing run's spec, with places as the cluster's nodes find them. Raises InputError."""
    return {
        name: found_there(name, value, on_this_machine)
        if isinstance(value, str) and (name == "storage" or name.endswith(".path"))
        else value
        for name, value in overrides.items()
    }


def flags_of(overrides: Mapping[str, Any]) -> str:
    return "".join(f" --set {shlex.quote(f'{name}={json.dumps(value)}')}" for name, value in overrides.items())


def found_there(name: str, place: str, on_this_machine: bool) -> str:
    """Return the URL or path by which the cluster's nodes find a place. A cluster on this machine has the same paths.

    Raises InputError for a path that only this machine knows, and for a secret, which must not be sent.
    """
    check_no_secret(place)
    if "://" in place or Path(place).is_absolute():
        return place
    if not on_this_machine:
        raise InputError(
            f"{name} is {place}, which the cluster's nodes do not know: give a URL such as s3://bucket/{Path(place).name}, or "
            "the absolute path of a folder that all nodes share"
        )
    return Store.at(place).url
