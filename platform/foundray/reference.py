"""Reference of all fields of specs, tasks, examples' data files and records, as one page: `foundray schema --markdown`.

Generated from the models that check these: their types, bounds, defaults and docstrings.
"""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from foundray.contract import MODALITIES, OBJECTIVES, installed, pairs
from foundray.spec import ModalityConfig, ObjectiveConfig, SourceConfig, Spec
from foundray.spec.documented import descriptions, models_in
from foundray.spec.section import Filled

HEAD = """# Every field

Written by `foundray schema --markdown` from the code that checks these files. `--set` takes field names as they stand here
(`--set train.steps=500`); `N` stands for an index in a list, from 0, and `NAME` for a name of your own. Fields that
*decide the result* are a run's identity: runs with equal identities are the same run, and a run cannot be resumed with
another identity. All options of objectives and modalities belong to it.
"""
PLAIN = {bool: "true or false", int: "whole number", float: "number", str: "text", type(None): "`null`", Any: "anything"}
BOUNDS = {Gt: ("gt", ">"), Ge: ("ge", "≥"), Lt: ("lt", "<"), Le: ("le", "≤")}


@dataclass
class Part:
    """A section of the page."""

    title: str
    level: int
    """Level of the heading, 2 to 4."""
    lines: list[str] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """Anchor of the title, as GitHub forms it."""
        return re.sub(r"[^\w\- ]", "", self.title.lower()).replace(" ", "-")


def markdown() -> str:
    """Write the page."""
    parts = [*_of_spec(), *_of_tasks(), *_of_data_sets(), *_of_records()]
    contents = [f"{'  ' * (part.level - 2)}- [{part.title}](#{part.anchor})" for part in parts]
    texts = ["\n".join(["#" * part.level + f" {part.title}", "", *part.lines]) for part in parts]
    return "\n\n".join([HEAD.rstrip(), "\n".join(contents), *texts]) + "\n"


def _of_spec() -> Iterator[Part]:
    yield _part(Spec, "A spec", "", 2, decides=True)
    yield from _inside(Spec, "", 3, decides=True)


def _inside(model: type[BaseModel], prefix: str, level: int, decides: bool = False) -> Iterator[Part]:
    """Sections of the models inside a model's fields."""
    for name, info in model.model_fields.items():
        for inner, step in models_in(info.annotation):
            path = f"{prefix}{name}{step}"
            yield _part(inner, path, f"{path}.", level, descriptions(model).get(name, ""), decides)
            if inner in (ObjectiveConfig, ModalityConfig):
                yield from _installed(inner, path, level + 1)
            yield from _inside(inner, f"{path}.", level, decides)


def _installed(model: type[BaseModel], path: str, level: int) -> Iterator[Part]:
    """One section per objective or modality."""
    group, together = OBJECTIVES if model is ObjectiveConfig else MODALITIES, pairs()
    for kind in installed(group):
        found: type[BaseModel] = entry_points(group=group)[kind].load()
        about = found.__doc__ if "__doc__" in vars(found) and found.__doc__ else sys.modules[found.__module__].__doc__ or ""
        if model is ObjectiveConfig:
            modalities = [modality for modality, objectives in together.items() if kind in objectives]
            pairing = f"Learns from: {', '.join(modalities)}."
        else:
            pairing = f"Objectives: {', '.join(together[kind])}."
        part = _part(found, f"{path}: {kind}", f"{path}.", level, about.split("\n\n")[0])
        part.lines.insert(2, pairing + "\n")
        yield part


def _of_tasks() -> Iterator[Part]:
    from foundray.evaluation.probes import KINDS

    yield Part("A task", 2, ["The file that `foundray probe RUN --task FILE` takes. Its fields depend on its `kind`."])
    written: set[type[BaseModel]] = set()
    for kind, task in KINDS.items():
        yield _part(task, f"task: {kind}", "", 3, task.__doc__ or "")
        for name, info in task.model_fields.items():
            for inner, step in models_in(info.annotation):
                if inner is not SourceConfig and inner not in written:  # data.sources.N documents sources
                    written.add(inner)
                    yield _part(inner, f"task: {name}{step}", f"{name}{step}.", 4, descriptions(task).get(name, ""))


def _of_data_sets() -> Iterator[Part]:
    from foundray.fetching import DataSet

    about = "`examples/*/data.yaml`, which `foundray fetch` reads: where an example's data is, and its checksums."
    yield _part(DataSet, "An example's data", "", 2, about)
    yield from _inside(DataSet, "", 3)


def _of_records() -> Iterator[Part]:
    from foundray.records.schema import EVENTS, Step

    about = "What a run writes into its folder while it trains: JSON Lines; on object stores in `metrics/` and `events/`."
    yield Part("A run's record", 2, [about])
    yield Part("metrics.jsonl", 3, [Step.__doc__ or "", "", *_fields(Step)])
    lines = ["Each has the `time`, as above, and an `event`, which is one of:", ""]
    for kind, model in EVENTS.items():
        lines += [f"- `{kind}`: {model.__doc__}", *(f"  {line}" for line in _fields(model, ("time", "event")))]
    yield Part("events.jsonl", 3, lines)


def _fields(model: type[BaseModel], but: tuple[str, ...] = ()) -> list[str]:
    """One line per field."""
    fields = [(name, info) for name, info in model.model_fields.items() if name not in but]
    return [f"- `{name}` ({_words(info.annotation, info.metadata)}): {descriptions(model).get(name)}" for name, info in fields]


def _part(model: type[BaseModel], title: str, prefix: str, level: int, about: str = "", decides: bool = False) -> Part:
    """A model as a table; with `decides`, a column says whether a field decides the result."""
    lines = [" ".join(about.split()), ""] if about else []
    if not model.model_fields:
        return Part(title, level, [*lines, "It has no options."])
    columns = ["field", "what it takes", "default", *(["decides the result"] if decides else []), "meaning"]
    lines += [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for name, info in model.model_fields.items():
        path = prefix + name
        verdict = [_decides(info, path)] if decides else []
        cells = [
            f"`{path}`",
            _words(info.annotation, info.metadata),
            _default(info),
            *verdict,
            descriptions(model).get(name, ""),
        ]
        lines.append(f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |")
    return Part(title, level, lines)


def _decides(info: FieldInfo, path: str) -> str:
    if models_in(info.annotation):
        return ""
    return "yes" if Spec.decides(path.replace(".N.", ".0.")) else "no"


def _default(info: FieldInfo) -> str:
    if derived := next((mark.words for mark in info.metadata if isinstance(mark, Filled)), ""):
        return derived
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    return "its fields'" if isinstance(value, BaseModel) else f"`{_literal(value)}`"


def _literal(value: Any) -> str:
    """A value as YAML."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_literal, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def _words(kind: Any, metadata: list[Any]) -> str:
    """A type and its bounds, in words."""
    if get_origin(kind) in (Union, types.UnionType) and metadata:  # the bounds apply to the part that is not null
        return " or ".join(_plain(part) if part is type(None) else _words(part, metadata) for part in get_args(kind))
    bounds = [
        f"{sign} {getattr(bound, name):{',' if isinstance(getattr(bound, name), int) else 'g'}}"
        for bound in metadata
        for type_, (name, sign) in BOUNDS.items()
        if isinstance(bound, type_)
    ]
    bounds += [f"matching `{bound.pattern}`" for bound in metadata if getattr(bound, "pattern", None)]
    bounds += ["not empty" for bound in metadata if isinstance(bound, MinLen)]
    return f"{_plain(kind)} {' and '.join(bounds)}".rstrip()


def _plain(kind: Any) -> str:
    origin, inside = get_origin(kind), get_args(kind)
    if kind in PLAIN:
        return PLAIN[kind]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "fields"
    if origin is Annotated:
        return _words(inside[0], [m for bound in inside[1:] for m in getattr(bound, "metadata", [bound])])
    if origin is Literal:
        return ("one of " if len(inside) > 1 else "") + ", ".join(f"`{value}`" for value in inside)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_plain, inside))
    if origin is list or inside[1:] == (...,):
        return f"[{_plain(inside[0])}, ...]"
    if origin is tuple:
        return f"[{', '.join(map(_plain, inside))}]"
    if origin is dict:
        return f"{{NAME: {_plain(inside[1])}, ...}}"
    raise TypeError(f"no description of the type {kind}")
