"""Files of a run's folder with wrong content: each is one sentence, and everything that does not need them continues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.records import troubled

from foundray.cli import main
from foundray.host.processes import home
from foundray.runs import following
from foundray.runs.following import Pulse
from foundray.runs.lock import is_held
from foundray.runs.run import Run
from foundray.runs.watching import watch
from foundray.testing.runs import run_with_records

OTHERS = [b"5", b"null", b"[1]", b'"x"', b"{", b"\xff\0", b"{}"]
"""Contents that are not JSON objects, or are empty."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_with_records(tmp_path, *troubled())


def refusal(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence with which a command ends."""
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    return said


@pytest.mark.parametrize("content", OTHERS)
def test_data_that_is_no_object_is_one_sentence(run: Run, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (run.folder / "data.json").write_bytes(content)
    said = refusal(["samples", run.folder.path, "--step", "3"], capsys)
    assert "data.json is damaged: it " in said
    assert said.endswith("so restore it")


@pytest.mark.parametrize("arithmetic", [5, ["order"], {"order": "x"}])
def test_invalid_versions_are_one_sentence(run: Run, arithmetic: Any, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads((run.folder / "data.json").read_text())
    (run.folder / "data.json").write_text(json.dumps(data | {"arithmetic": arithmetic}))
    assert "data.json is damaged: its arithmetic names no versions" in refusal(["status", run.folder.path], capsys)


@pytest.mark.parametrize(
    "content",
    [
        *OTHERS,
        b'{"fingerprint": "x"}',
        b'{"fingerprint": "x", "loss": 2, "interval": {"low": "1", "high": 3}}',
        b'{"fingerprint": "x", "loss": 2, "interval": {"low": 1, "high": 3}, "law": {"E": 1}}',
    ],
)
def test_an_invalid_forecast_is_one_sentence_and_everything_else_is_shown(
    run: Run, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.folder / "forecast.json").write_bytes(content)
    said = "forecast.json is damaged: it is not a forecast; restore it, or delete it"
    main(["status", run.folder.path])
    shown = capsys.readouterr().out
    assert said in shown
    assert "finished, step 120" in shown
    console = Console(width=300, height=80)
    with console.capture() as drawn:
        watch(Run.open(run.folder.path), console)
    assert said in drawn.get()


def test_a_damaged_forecast_is_mentioned_with_a_report(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    (run.folder / "forecast.json").write_text("{")
    main(["report", run.folder.path])
    assert "forecast.json is damaged" in capsys.readouterr().err
    assert (run.folder / "report.html").exists()


@pytest.mark.parametrize(
    "content",
    [
        *OTHERS,
        *(
            json.dumps(
                {"token": "t", "beats": 1, "host": "h", "process": "p", "user": "u", "pid": pid, "home": home()}
            ).encode()
            for pid in ("x", -1, None)
        ),
    ],
)
def test_an_invalid_lock_file_names_no_holder_in_the_end(run: Run, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.folder / "holder.json").write_bytes(content)
    assert not is_held(run.folder)
    pulse = Pulse(run.folder)
    assert pulse.beats(), "it may be whole at the next look"
    monkeypatch.setattr(following, "PATIENCE_SECONDS", 0.0)
    assert not pulse.beats()
