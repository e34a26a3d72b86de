"""Before a local Ray starts, its requirements are checked; each unmet one is one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from foundray.cluster import local_ray
from foundray.errors import InputError
from foundray.host import writable


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("/proc/none", "keeps its sockets and logs in /proc/none/ray, which cannot be written (no such file or directory)"),
        ("/dev/null", "(not a directory)"),
        ("/tmp/ü", "Ray's folder for sockets and logs must have an ASCII path, and /tmp/ü does not"),
        ("/tmp/" + "x" * 60, "is too long: Ray's sockets in it would have paths of "),
    ],
)
def test_an_unusable_temporary_folder(folder: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", folder)
    with pytest.raises(InputError) as error:
        writable.check_temporary_folder()
    assert said in str(error.value) and "set RAY_TMPDIR" in str(error.value)


def test_a_temporary_folder_that_does_not_exist_yet_is_tested_at_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", f"/tmp/foundray-none-{os.getpid()}/inside")
    writable.check_temporary_folder()
    assert not Path(f"/tmp/foundray-none-{os.getpid()}").exists(), "the check leaves nothing"


def test_shared_memory_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    writable.check_shared_memory()
    monkeypatch.setattr(writable, "SHARED", Path("/proc/none"))
    with pytest.raises(InputError, match=r"/proc/none cannot be written \(no such file or directory\), but Ray's objects"):
        writable.check_shared_memory()


def test_a_local_ray_has_its_own_token_which_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "made"))
    monkeypatch.setenv("HOME", "/proc")
    with local_ray._own_token():
        file = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
        assert file.parent.parent == tmp_path / "made" and file.parent.stat().st_mode & 0o777 == 0o700
        first = file.read_text()
    assert len(first) == 64 and not file.parent.exists() and "RAY_AUTH_TOKEN_PATH" not in os.environ
    with local_ray._own_token():
        assert Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text() != first
    (given := tmp_path / "given").write_text("a token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(given))
    with local_ray._own_token():
        assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(given)
