"""Every check of an installation finds the fault that it looks for."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from foundray.doctor import Finding, examine, machine, packages, reaching, table
from foundray.doctor.probes import probed

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without any of our variables."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_this_installation_is_sound(tmp_path: Path) -> None:
    found = examine(str(tmp_path), quick=True)
    assert [finding for finding in found if finding.verdict == "wrong"] == []
    names = [finding.name for finding in found]
    assert {"python", "packages", "torch", "bitsandbytes", "objectives", "cores", "storage", "token"} <= set(names)
    assert "ray" not in names, "it is left out where it should be quick"
    assert all(bool(finding.mend) == (finding.verdict != "ok") for finding in found)


@pytest.mark.parametrize(
    ("library", "content", "said"),
    [
        ("bitsandbytes", "raise ImportError('libcudart.so is missing')", "libcudart.so is missing"),
        ("bitsandbytes", "import os; os.kill(os.getpid(), 11)", "SIGSEGV"),
        ("torch", "raise RuntimeError('built for another machine')", "built for another machine"),
        ("torch", "import os; os._exit(3)", "status 3"),
        ("pydantic", "raise ImportError('no pydantic_core')", "no pydantic_core"),
    ],
)
def test_a_broken_library_is_a_finding(
    library: str, content: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{library}.py").write_text(content)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    found = probed("objectives" if library == "pydantic" else library)
    assert (found.verdict, said in found.found) == ("wrong", True), found
    assert found.mend


def test_versions_that_were_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["numpy<1", "no-such-package>=1", "pydantic>=2", "pytest<1; extra == 'dev'"]
    monkeypatch.setattr(packages, "requires", lambda name: asked)
    found = {finding.name: finding for finding in packages.required()}
    assert list(found) == ["numpy", "no-such-package"]
    assert found["numpy"].mend == "pip install 'numpy<1'"
    assert found["no-such-package"].found == "not installed"


def test_a_token_that_others_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reaching.token().verdict == "ok"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert reaching.token().verdict == "wrong", "there is none"
    file = tmp_path / "token"
    file.write_text("hush-hush")
    file.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    found = reaching.token()
    assert (found.verdict, "mode 644" in found.found) == ("wrong", True)
    assert "hush" not in str(found)
    file.chmod(0o600)
    assert reaching.token().verdict == "ok"
    file.write_text("")
    assert reaching.token().verdict == "wrong"


def test_a_token_that_nothing_asks_for_is_only_a_note(tmp_path: Path) -> None:
    (file := tmp_path / ".ray" / "auth_token").parent.mkdir()
    file.write_text("hush-hush")
    file.chmod(0o644)
    assert reaching.token().verdict == "warn"


def test_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        assert reaching.address().verdict == "ok"
    assert "nothing answers" in reaching.address().found
    for wrong in ("head", "http://head:8265", "127.0.0.1:99999"):
        monkeypatch.setenv("RAY_ADDRESS", wrong)
        assert reaching.address().verdict == "wrong", wrong


def test_a_proxy_that_catches_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reaching.proxy().verdict == "ok"
    monkeypatch.setenv("http_proxy", "http://user:secret@proxy:3128")
    found = reaching.proxy()
    assert (found.verdict, "secret" in str(found)) == ("warn", False)
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    assert reaching.proxy().verdict == "ok"


def test_a_temporary_folder_whose_sockets_would_have_too_long_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = str(tmp_path / ("x" * 60))
    for folder, verdict in (("/tmp", "ok"), (long, "wrong"), ("/proc/none", "wrong"), ("/tmp/none", "ok")):
        monkeypatch.setenv("RAY_TMPDIR", folder)
        assert machine.temporary_folder().verdict == verdict, folder


def test_a_storage_that_cannot_be_written(tmp_path: Path) -> None:
    assert machine.disk(str(tmp_path / "yet" / "to" / "be" / "made")).verdict in ("ok", "warn")
    assert not (tmp_path / "yet").exists()
    (tmp_path / "file").touch()
    assert machine.disk(str(tmp_path / "file" / "runs")).verdict == "wrong"
    assert "cannot be opened as storage" in machine.disk("nonsense://x").found


@pytest.mark.parametrize("check", [machine.cores, machine.memory, machine.shared_memory, machine.open_files, machine.clock])
def test_the_machines_resources_are_reported(check: Callable[[], Finding]) -> None:
    assert check().found


def test_the_table_has_a_line_a_check_and_a_sentence_for_each_thing_to_mend() -> None:
    shown = table([Finding("torch", "ok", "2.9"), Finding("token", "wrong", "others may read it", "chmod 600 it")])
    assert shown.splitlines() == ["ok     torch  2.9", "wrong  token  others may read it", "", "token: chmod 600 it"]
