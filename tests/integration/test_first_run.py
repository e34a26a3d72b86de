"""From a folder of one's own files to a trained, evaluated, exported model: the commands of the how-to page, in its order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.command import foundray_here
from tests.repository import REPOSITORY

import foundray

pytestmark = pytest.mark.usefixtures("own_ray")

PAGE = (REPOSITORY / "docs" / "how-to" / "from-a-folder-to-a-model.md").read_text()


def commands(title: str) -> list[list[str]]:
    """Arguments of a section's `foundray` commands."""
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return [shlex.split(line, comments=True) for line in re.findall(r"^    foundray (.*)$", section, re.MULTILINE)]


def texts(folder: Path, prose: Path) -> None:
    for number, text in enumerate(prose.read_text().split("\n\n\n")[:150]):
        (folder / f"{number}.txt").write_text(text)


def pictures(folder: Path, prose: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(240):
        (label := folder / str(number % 4)).mkdir(exist_ok=True)
        pixels = rng.integers(0, 60, (28, 28), np.uint8)
        pixels[7 * (number % 4) : 7 * (number % 4) + 7] += 180
        Image.fromarray(pixels).save(label / f"{number}.png")


def readings(folder: Path, prose: Path) -> None:
    hours = np.arange(9000)
    noise = np.random.default_rng(0).normal(0, 0.1, (2, len(hours)))
    table = {"hour": pd.date_range("2024-01-01", periods=len(hours), freq="h"), "load": np.sin(hours / 4) + noise[0]}
    pd.DataFrame({**table, "heat": np.cos(hours / 24) + noise[1]}).to_csv(folder / "readings.csv", index=False)


@pytest.mark.parametrize(
    ("title", "data", "make"),
    [
        ("Text", "plays", texts),
        pytest.param("Pictures", "digits", pictures, marks=pytest.mark.thorough),
        pytest.param("Tables of numbers", "meter", readings, marks=pytest.mark.thorough),
    ],
)
def test_three_commands_from_files_to_an_exported_model(
    title: str, data: str, make: object, prose: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder := tmp_path / "data" / data).mkdir(parents=True)
    make(folder, prose)  # type: ignore[operator]
    walk = commands(title)
    assert [verb for verb, *_ in walk[:3]] == ["init", "train", "export"]
    shorter = {"init": ["--minutes", "0.05"], "train": ["--set", "train.steps=30", "--set", "train.evaluate_every=15"]}
    for verb, *arguments in walk:
        done = foundray_here(verb, *arguments, *shorter.get(verb, []))
        assert done.status == 0, (verb, done.out, done.err)
    facts = foundray.status(data)
    assert facts.state == "finished" and facts.val_loss is not None
    losses = list(foundray.events(data)["val_loss"].dropna())
    assert losses[-1] < losses[0], "it learns"
    assert (tmp_path / "models" / data / "config.json").exists() or (tmp_path / "models" / data / "README.md").exists()
