"""Shared by all tests: the number of threads, real text, and small specs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from threadpoolctl import threadpool_limits

REPOSITORY = Path(__file__).parents[1]
THREADS = 1
"""Threads of every process that computes in a test: a worker's default. Sums split for another number of threads round
differently, and whether that shows depends on the machine's cores and processor."""
TABLES = pytest.StashKey[list[tuple[str, list[str]]]]()


def pytest_configure() -> None:
    """Set the number of threads before torch and NumPy read it, and for the processes that tests start, Ray's included."""
    os.environ.update({f"{library}_NUM_THREADS": str(THREADS) for library in ("OMP", "MKL", "OPENBLAS")})
    threadpool_limits(THREADS)  # if a plugin of pytest has imported them already
    hypothesis.settings.register_profile("steady", deadline=None)  # a busy machine is no fault
    hypothesis.settings.load_profile("steady")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Restore the number of threads, which the previous test may have changed."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(THREADS)


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
    """Real text that every Python has: the first 400 kB of its standard library's source."""
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
        "scale": {"workers": 1},
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
