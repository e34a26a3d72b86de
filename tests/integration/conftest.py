"""The command line on real local Ray, as a user runs it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests import hooked
from tests.repository import REPOSITORY

from foundray.cluster.connect import connected
from foundray.testing.specs import small_spec, write_spec

FOLDER = Path(__file__).parent
SHARED = ExitStack()
"""The Ray that modules share, while it is up."""


@pytest.hookimpl(trylast=True)  # after fixtures have put the environment back in which Ray was started
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """No Ray is left in this process for tests of other folders."""
    if nextitem is None or FOLDER not in nextitem.path.parents:
        SHARED.close()


@pytest.fixture
def spec(prose: Path, tmp_path: Path) -> Path:
    """A small spec over real text, with its storage in the test's folder."""
    return write_spec(tmp_path, small_spec(prose, tmp_path / "runs"))


@pytest.fixture(scope="module")
def shared_spec(prose: Path, storage: Path) -> Path:
    return write_spec(storage, small_spec(prose, storage / "runs"))


@pytest.fixture(scope="session")
def hooks(tmp_path_factory: pytest.TempPathFactory) -> tuple[hooked.Pace, dict[str, str]]:
    """The pace of runs with the hooked objective, and the environment in which they find both."""
    folder = tmp_path_factory.mktemp("hooked")
    pace = hooked.Pace(folder / "pace", 0.0)
    path = os.pathsep.join(filter(None, [str(hooked.install(folder)), str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return pace, {"PYTHONPATH": path, **pace.environment}


@pytest.fixture
def pace(hooks: tuple[hooked.Pace, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Iterator[hooked.Pace]:
    """The pace of runs with the hooked objective, which is installed for this process, its commands, and the shared Ray."""
    made, environment = hooks
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(environment["PYTHONPATH"].partition(os.pathsep)[0])
    yield made
    made.set(0.0)


@pytest.fixture(scope="module")
def own_ray(hooks: tuple[hooked.Pace, dict[str, str]]) -> None:
    """A Ray as a command starts it for itself, in this process, for this and later modules; commands have Rays of their own."""
    import ray

    if not ray.is_initialized():
        SHARED.close()
        with pytest.MonkeyPatch.context() as patch:  # Ray's processes keep the environment in which they are started
            for name, value in hooks[1].items():
                patch.setenv(name, value)
            SHARED.enter_context(connected())


@pytest.fixture
def no_ray() -> None:
    """No Ray in this process."""
    SHARED.close()
