"""A spec that starts from an example, and where the example's data comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from foundray.errors import InputError
from foundray.examples import Example, find
from foundray.proposing import Written, free, write_new
from foundray.spec.loading import load_spec, read_yaml


def from_example(name: str, out: str | None, report: Callable[[str], None]) -> Written:
    """Copy an example's spec, and say how to get its data; `out` is its file (default: the spec's name). Raises InputError."""
    example = find(name)
    file = spec_of(example)
    spec = load_spec(file)
    target = free(Path(out or f"{example.name}.yaml"))
    head = f"# From the example {example.name}; its data: {example.how}\n"
    write_new(target, head + read_yaml(file, "the example"))
    for line in example.lines():
        report(line)
    return Written(target, spec.name)


def spec_of(example: Example) -> Path:
    """The spec of an example, the first by name if there are several. Raises InputError if there is none."""
    specs = sorted(path for path in example.folder.glob("*.yaml") if path.name != "data.yaml" and "task" not in path.name)
    plain = [path for path in specs if path.name == "spec.yaml"] or specs
    if not plain:
        raise InputError(f"the example {example.name} has no spec: {example.how}")
    return plain[0]
