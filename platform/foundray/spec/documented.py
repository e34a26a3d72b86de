"""Docstrings of the fields of models, for docs and schemas.

Pydantic would read them from the source as it makes the classes, which costs each command and worker a quarter of a second.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from foundray.spec.section import Filled


@cache
def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """The `description` of each field of a model, or else the docstring below it, by the field's name."""
    found: dict[str, str] = {}
    for one in reversed(model.__mro__):
        if one is not BaseModel and issubclass(one, BaseModel):
            body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]
            assert isinstance(body, ast.ClassDef)
            for field, below in zip(body.body, body.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_text(below):
                    found[field.target.id] = inspect.cleandoc(below.value.value)  # type: ignore[attr-defined]
    return found | {name: info.description for name, info in model.model_fields.items() if info.description}


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """A model's JSON schema, with descriptions of all fields, nested ones included."""
    seen = set[type[BaseModel]]()
    _describe(model, seen)
    schema = model.model_json_schema()
    for one in seen:
        part = schema if one is model else schema.get("$defs", {}).get(one.__name__, {})
        if "required" in part:
            part["required"] = [name for name in part["required"] if not _is_filled(one, name)]
    return schema


def _is_filled(model: type[BaseModel], name: str) -> bool:
    """Whether the field may be left out, because others say it."""
    return any(isinstance(mark, Filled) for mark in model.model_fields[name].metadata)


def models_in(kind: Any) -> list[tuple[type[BaseModel], str]]:
    """The models in a field's type, and the path from the field to each."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [(kind, "")]
    step = {list: ".N", dict: ".NAME"}.get(get_origin(kind) or kind, "")
    return [(model, step + more) for part in get_args(kind) for model, more in models_in(part)]


def _describe(model: type[BaseModel], done: set[type[BaseModel]]) -> None:
    if model in done:
        return
    done.add(model)
    for name, info in model.model_fields.items():
        for inner, _ in models_in(info.annotation):
            _describe(inner, done)
        info.description = info.description or descriptions(model).get(name)
    model.model_rebuild(force=True)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
