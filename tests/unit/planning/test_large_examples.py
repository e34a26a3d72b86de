"""The specs of large models: what their workers hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.repository import REPOSITORY

from foundray.spec.loading import load_spec
from foundray.training.footprint import footprint


@pytest.mark.parametrize(("name", "parameters", "team"), [("1.5b", 1.50e9, 1), ("7b", 7.01e9, 4), ("13b", 13.36e9, 8)])
def test_the_large_examples_fit_80_gigabytes(name: str, parameters: float, team: int, prose: Path, tmp_path: Path) -> None:
    changes = {"data.sources": [{"path": str(prose), "format": "text"}], "storage": str(tmp_path)}
    spec = load_spec(str(REPOSITORY / "examples" / "large" / f"{name}.yaml"), changes)
    assert spec.scale.team_size == team
    held = footprint(spec, 65536, spec.scale.groups[0])
    assert held.total < 80e9
    assert held.weights == pytest.approx(4 * parameters / team, rel=0.01)
