"""Load a spec, or another checked YAML file, with overrides.

`load_spec(path, overrides)` returns a `Spec` or raises `InputError` with one sentence that names the field, the value and what
would be right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from foundray.errors import InputError
from foundray.spec import Spec, nearest
from foundray.spec.filling import in_full
from foundray.spec.learning import ALTERNATIVES

SOURCES_HINT = "; it names the sources, as in `data: {sources: [{path: ...}]}`"
_Checked = TypeVar("_Checked", bound=BaseModel)
_Read = TypeVar("_Read")


def load_spec(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Spec:
    """Read, override and check a spec file, including the name for a new run. Raises InputError."""
    spec = parse_spec(read_yaml(path, "the spec"), str(path), overrides)
    if problem := spec.name_problem():
        raise InputError(f"--set {problem}" if "name" in (overrides or {}) else f"{path}: {problem}")
    return spec


def parse_spec(text: str, where: str, overrides: Mapping[str, Any] | None = None, flags: Collection[str] | None = None) -> Spec:
    """Check a spec given as YAML text; `where` names it in errors. Raises InputError.

    `flags` are the overrides that the user gave (default: all): an error that they cause names them in place of the text.
    """

    def read(given: Mapping[str, Any]) -> Spec:
        return checked(Spec, parse_fields(text, where, "a spec starts with `name: ...`", _alone(given), in_full), where)

    return overridden(read, overrides or {}, where, flags)


def overridden(
    read: Callable[[Mapping[str, Any]], _Read], overrides: Mapping[str, Any], where: str, flags: Collection[str] | None = None
) -> _Read:
    """What `read` makes of the overrides. An error that `flags` among them cause (default: all) names `--set`, not `where`.

    Raises InputError.
    """
    try:
        return read(overrides)
    except InputError as error:
        problem, given = _problem(error), [name for name in overrides if flags is None or name in flags]
        others = {name: value for name, value in overrides.items() if name not in given}
        if not given or not problem.startswith(f"{where}: ") or _problem_of(read, others) == problem:
            raise
        alone = [name for name in given if _problem_of(read, {**others, name: overrides[name]}) == problem]
        sentence, names = str(error).removeprefix(f"{where}: ").removeprefix("the file: "), ", --set ".join(alone or given)
        raise InputError(f"--set {sentence if sentence.startswith(names) else f'{names}: {sentence}'}") from None


def _problem_of(read: Callable[[Mapping[str, Any]], object], overrides: Mapping[str, Any]) -> str:
    try:
        read(overrides)
    except InputError as error:
        return _problem(error)
    return ""


def _problem(error: InputError) -> str:
    """The error without the number of others, which may have other causes."""
    return re.sub(r" \([0-9]+ more after this one\)$", "", str(error))


def _alone(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides; one of several ways to say something clears what the file says in another."""
    cleared = [field for ways in ALTERNATIVES for field in ways if any(way in overrides for way in ways)]
    return dict.fromkeys(cleared) | dict(overrides)


def read_yaml(path: str | Path, what: str) -> str:
    """Read the text of a file; `what` names it in errors. Raises InputError."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{what} {path} is not UTF-8 text (byte {error.start})") from None


def parse_fields(
    text: str,
    where: str,
    hint: str,
    overrides: Mapping[str, Any] | None = None,
    opened: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> dict[str, Any]:
    """Parse YAML text and apply overrides; `hint` says what would be right if it has no fields. Raises InputError.

    `opened` writes short forms in full, before each override, which may name a field inside one.
    """
    try:
        fields = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise InputError(f"{where} is not valid YAML{line}: {getattr(error, 'problem', error)}") from None
    if not isinstance(fields, dict):
        raise InputError(f"{where} holds no fields; {hint}")
    found = dict[str, Any](fields)
    for name, value in (overrides or {}).items():
        found = opened(found)
        set_field(found, name, value, "--set")
    return found


def checked(model: type[_Checked], fields: dict[str, Any], where: str) -> _Checked:
    """Validate the fields as a `model`; `where` names them in errors. Raises InputError."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise InputError(f"{where}: {_sentence(error, model)}") from None
    except InputError as error:  # of an option of the modality or the objective
        raise InputError(f"{where}: {error}") from None


def parse_override(text: str) -> tuple[str, Any]:
    """Parse `"optimizer.lr=3e-4"` as `("optimizer.lr", 0.0003)`; the value is YAML. Raises InputError."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InputError(f"--set {text}: write it as --set field.name=value")
    try:
        return name.strip(), yaml.load(value, Loader=_Loader)
    except yaml.YAMLError:
        raise InputError(f"--set {text}: the value is not valid YAML") from None


class _Loader(yaml.SafeLoader):
    """Reads 3e-4 as a number; in YAML 1.1 it is text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def set_field(fields: Any, name: str, value: Any, who: str) -> None:
    """Set a nested field by its dotted name; `who` names the caller in errors. Raises InputError if it cannot exist."""
    *path, last = name.split(".")
    here = fields
    for key in path:
        if isinstance(here, list):
            here = here[_index(here, key, name, who)]
        elif isinstance(here, dict):
            here = here.setdefault(key, {})
    if isinstance(here, list):
        here[_index(here, last, name, who)] = value
    elif isinstance(here, dict):
        here[last] = value
    else:
        raise InputError(f"{who} {name}: a plain value has no fields")


def _index(items: list[Any], key: str, name: str, who: str) -> int:
    if not key.isdigit() or int(key) >= len(items):
        raise InputError(f"{who} {name}: {key!r} is not one of the {len(items)} items (0 to {len(items) - 1})")
    return int(key)


def _sentence(error: ValidationError, model: type[BaseModel]) -> str:
    found = _of_fields(error.errors(include_url=False))
    problems = _causes(found) if model is Spec else found
    # Report an unknown field first: it may explain a missing one.
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    name = ".".join(str(part) for part in first["loc"]) or "the file"
    more = f" ({len(problems) - 1} more after this one)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        *parents, last = first["loc"]
        known = _fields_at(model, tuple(parents))
        return f"{name} is not a field{nearest(str(last), known)}; there are: {', '.join(known)}{more}"
    if first["type"] == "missing":
        hint = SOURCES_HINT if model is Spec and first["loc"] == ("data",) else ""
        return f"the field `{name}` is missing{hint}{more}"
    message = first["msg"].removeprefix("Value error, ")
    given = f" (it is {first['input']!r})" if isinstance(first["input"], str | int | float | bool | list | tuple) else ""
    return f"{name}: {message[0].lower()}{message[1:]}{given}{more}"


_TAG = re.compile(r"(constrained-\w+|int|float|str|bool|none|(literal|list|tuple|dict)\[.*\])")
"""What pydantic appends to a field's place: the alternative of its type that was tried."""


def _of_fields(problems: list[ErrorDetails]) -> list[ErrorDetails]:
    """One problem per field: a value that is none of the field's alternatives has one per alternative."""
    found: dict[tuple[int | str, ...], ErrorDetails] = {}
    for problem in problems:
        *parents, last = place = problem["loc"] or ("",)
        if not (isinstance(last, str) and _TAG.fullmatch(last)):
            found.setdefault(tuple(place), problem)
        elif first := found.get(tuple(parents)):
            first["msg"] += f", or {problem['msg'].removeprefix('Input should be ')}"
        else:
            found[tuple(parents)] = {**problem, "loc": tuple(parents)}
    return list(found.values())


def _causes(problems: list[ErrorDetails]) -> list[ErrorDetails]:
    """The problems without those that follow from others: what `data` decides is missing only because of an error there."""
    of_data = [problem for problem in problems if problem["loc"][:1] == ("data",)]
    others = [problem for problem in problems if problem not in of_data]
    return of_data + [problem for problem in others if not of_data or problem["type"] != "missing"]


def _fields_at(root: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    model: Any = root
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        model = next((a for a in (annotation, *getattr(annotation, "__args__", ())) if hasattr(a, "model_fields")), model)
    return list(model.model_fields)
