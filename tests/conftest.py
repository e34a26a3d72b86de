"""What all tests share: real text, and small specs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]
TABLES = pytest.StashKey[list[tuple[str, list[str]]]]()


@pytest.fixture
def show(request: pytest.FixtureRequest) -> Callable[[str, list[str]], None]:
    """Show a table, by its title and lines, below the results of all tests."""
    tables = request.config.stash.setdefault(TABLES, [])
    return lambda title, lines: tables.append((title, lines))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for title, lines in config.stash.get(TABLES, []):
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real text that every Python carries: the first 400 kB of its standard library's source."""
    import sysconfig

    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = "\n".join(file.read_text(encoding="utf-8", errors="ignore") for file in files)
    path = tmp_path_factory.mktemp("prose") / "stdlib.txt"
    path.write_text("".join(c for c in text if c.isascii())[:400_000])
    return path


def small_spec(source: Path, storage: Path, **changes: Any) -> dict[str, Any]:
    """A spec that trains in seconds; `changes` are fields by dotted name with `__` for the dot."""
    spec: dict[str, Any] = {
        "name": "small",
        "data": {"sources": [{"path": str(source)}], "holdout": 0.1, "tokenizer": {"kind": "bytes"}},
        "objective": {"kind": "next_token"},
        "model": {"width": 32, "depth": 2, "heads": 2, "context": 32},
        "optimizer": {"kind": "adamw8bit", "lr": 4e-3},
        "train": {"steps": 12, "micro_batches": 5, "micro_batch_size": 2, "evaluate_every": 100, "checkpoint_every": 4},
        "storage": str(storage),
    }
    for name, value in changes.items():
        *path, last = name.split("__")
        here = spec
        for key in path:
            here = here.setdefault(key, {})
        here[last] = value
    return spec


def write_spec(folder: Path, spec: dict[str, Any]) -> Path:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path
