"""A run made longer: what its records say of that, and by which spec each of its steps was computed.

An extension is a cut of the run's lineage: states of steps that a longer run would have computed otherwise are undone. Nothing
here needs torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from foundray.errors import InputError
from foundray.spec import Spec, flatten
from foundray.spec.loading import checked, set_field

EXTENDED = "extended"
Event = Mapping[str, Any]


def changed(before: Spec, after: Spec) -> dict[str, list[Any]]:
    """The fields that an extension changes, by dotted name: their values before and after."""
    old, new = (flatten(spec.model_dump(mode="json")) for spec in (before, after))
    return {name: [old.get(name), new.get(name)] for name in {**old, **new} if old.get(name) != new.get(name)}


def extensions(events: Iterable[Event]) -> list[Event]:
    """A run's extensions, in order."""
    return [event for event in events if event["event"] == EXTENDED]


def specs_of(spec: Spec, events: Iterable[Event]) -> list[Spec]:
    """The spec in force from the beginning, and after each extension; the last is the run's present one."""
    found = [spec]
    for event in reversed(extensions(events)):
        found.insert(0, _with(found[0], {name: values[0] for name, values in event["changed"].items()}))
    return found


def unfinished(spec: Spec, events: Iterable[Event]) -> Event | None:
    """The last extension, if it is recorded but the run's spec does not have it yet; None if all is as recorded."""
    last = next(reversed(extensions(events)), None)
    fields = flatten(spec.model_dump(mode="json"))
    wrong = last and any(fields.get(name) != values[1] for name, values in last["changed"].items())
    return last if wrong else None


def with_extension(spec: Spec, event: Event) -> Spec:
    """The spec after an extension."""
    return _with(spec, {name: values[1] for name, values in event["changed"].items()})


def earlier_fingerprints(events: Iterable[Event]) -> tuple[str, ...]:
    """Fingerprints of the specs before each extension: checkpoints that no cut has undone may have them."""
    return tuple(event["fingerprint"] for event in extensions(events))


def _with(spec: Spec, values: Mapping[str, Any]) -> Spec:
    fields = spec.model_dump(mode="json")
    for name, value in values.items():
        set_field(fields, name, value, "the record of an extension")
    return checked(Spec, fields, "the record of an extension").begun_with(spec.arithmetic)


def length_of(steps: int | None, tokens: int | None, epochs: float | None) -> dict[str, Any]:
    """A new length by the name of what it counts, as far as it is given."""
    given = {"steps": steps, "tokens": tokens, "epochs": epochs}
    return {name: value for name, value in given.items() if value is not None}


def check_length(length: Mapping[str, Any]) -> None:
    """Refuse a new length that is not one of steps, tokens and epochs. Raises InputError."""
    if len(length) != 1:
        raise InputError("name the run's new length by one of --steps, --tokens and --epochs")
    for name, value in length.items():
        if isinstance(value, str) or not 0 < value < float("inf"):
            raise InputError(f"--{name} {value}: it must be a number above 0")
