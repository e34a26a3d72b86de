"""A run judged by likelihood: its weights beside the floors, kept in its folder; runs that give no likelihood are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import foundray
from foundray.errors import InputError
from foundray.testing.runs import run_with_checkpoint
from foundray.testing.specs import IMAGES


@pytest.fixture
def task(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.jsonl"
    pairs = [{"good": "The cats sleep.", "bad": "The cats sleeps.", "group": "en"}, {"good": "ab", "bad": "ba", "group": "x"}]
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return file


def test_a_result_is_shown_kept_and_the_same_again(tmp_path: Path, task: Path) -> None:
    run = run_with_checkpoint(tmp_path)
    result = foundray.evaluate(run.folder.url, task)
    assert (result.kind, result.items, result.step, result.chance) == ("pair", 2, 3, 0.5)
    # The weights are the initial ones, whose head is zero: every token is as likely, so the shorter text wins.
    assert result.ours.measures[0].value == 1.0, "the first of two that are as likely"
    assert result.untrained.measures[0].value == 0.75, "for a floor each of the two is half right"
    assert result.unigram is None, "there is no prepared data"
    assert foundray.evaluate(run.folder.url, task) == result
    first, *rest = result.table().splitlines()
    assert first.split() == ["ours", "untrained", "chance"]
    assert rest[0].startswith("accuracy (higher is better)   1.0000 ± 0.0000   0.7500")
    assert [row.split()[0] for row in rest[1:3]] == ["en", "x"]
    (kept,) = (run.folder / "tasks").children()
    assert json.loads(kept.read_text())["ours"]["measures"][0]["value"] == 1.0
    assert foundray.evaluate(run.folder.url, task, limit=1).items == 1


def test_a_run_without_a_texts_likelihood_is_refused(tmp_path: Path, task: Path) -> None:
    images = run_with_checkpoint(tmp_path, **IMAGES)
    with pytest.raises(InputError, match="a run of masked_pixel gives no likelihood of a text, since image is no text"):
        foundray.evaluate(images.folder.url, task)
    masked = run_with_checkpoint(tmp_path, name="masked", objective={"kind": "masked_token"})
    with pytest.raises(InputError, match="since it does not predict what comes next"):
        foundray.evaluate(masked.folder.url, task)
    with pytest.raises(InputError, match=r"none\.jsonl"):
        foundray.evaluate(run_with_checkpoint(tmp_path, name="text").folder.url, tmp_path / "none.jsonl")
