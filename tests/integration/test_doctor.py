"""Whether Ray can start is found out by starting it."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundray.doctor.probes import probed


@pytest.mark.thorough
def test_ray_starts_and_runs_a_task() -> None:
    found = probed("ray")
    assert (found.verdict, "ran a task" in found.found) == ("ok", True), found


def test_a_ray_that_cannot_start_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / ("long" * 20)).mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    found = probed("ray")
    assert found.verdict == "wrong"
    assert "is too long: Ray's sockets in it" in found.mend and "set RAY_TMPDIR" in found.mend
    assert "Traceback" not in found.found
