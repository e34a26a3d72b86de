"""README's walk on one's own data, and what comes out of a run: its own commands, in its order, with fewer steps."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tests.command import foundray_here
from tests.repository import REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def commands(title: str) -> list[list[str]]:
    """Arguments of the section's `foundray` commands."""
    lines = re.findall(r"^    foundray (.*)$", section(title), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.thorough
def test_the_walk_on_ones_own_data(own_ray: None, prose: Path, tmp_path: Path) -> None:
    (written,) = re.findall(r"```yaml\n(.*?)```", section("Your own data"), re.DOTALL)
    assert "steps: 500" in written
    (tmp_path / "mine.yaml").write_text(written.replace("steps: 500", "steps: 30"))
    (tmp_path / "data" / "mine").mkdir(parents=True)
    for number, text in enumerate(prose.read_text().split("\n\n\n")[:200]):
        (tmp_path / "data" / "mine" / f"{number}.txt").write_text(text)
    walk = commands("Your own data")
    assert [verb for verb, *_ in walk] == ["prepare", "plan", "train", "train", "sample", "report"]
    outcome = commands("What comes out")
    assert [verb for verb, *_ in outcome] == ["export", "embed", "search"]
    for arguments in [*walk, *outcome]:
        ours = [
            argument.replace("shakespeare-tuned", "mine").replace("data/shakespeare", "data/mine") for argument in arguments
        ]
        done = foundray_here(*ours, cwd=tmp_path)
        assert done.status == 0, (ours, done.out, done.err)
    assert (tmp_path / "runs" / "mine" / "report.html").exists()
    assert (tmp_path / "model" / "config.json").exists()
