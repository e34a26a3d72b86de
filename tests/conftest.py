"""Shared by all tests: the number of threads, real text, storage, and a small disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from threadpoolctl import threadpool_limits

from foundray.testing.groups import THREADS

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


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Storage that the tests of a module share, so that data is prepared once."""
    return tmp_path_factory.mktemp("storage")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
