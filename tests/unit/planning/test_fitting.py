"""What a plan says of models larger than one GPU: the teams that a run would form, and the smallest fleet that fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.repository import REPOSITORY

from foundray.host.gpu_memory import FULL
from foundray.model.flops import flops
from foundray.planning import plan
from foundray.planning.cost import Assumptions, Estimate, estimates
from foundray.planning.gpus import fleets
from foundray.planning.teams_text import of_teams
from foundray.spec import Spec
from foundray.spec.loading import load_spec
from foundray.training.footprint import footprint
from foundray.training.team_size import in_teams_of

CLASSES = 65536
LLAMA_70B = {"width": 8192, "depth": 80, "heads": 64, "hidden": 28672, "context": 4096, "rope_theta": 500000}


def large(prose: Path, tmp_path: Path, name: str, **changes: Any) -> Spec:
    given = {"data.sources": [{"path": str(prose), "format": "text"}], "storage": str(tmp_path), "scale.team": "auto"}
    if name == "70b":
        name, changes = "7b", {"model": LLAMA_70B, **changes}
    return load_spec(str(REPOSITORY / "examples" / "large" / f"{name}.yaml"), given | changes)


def estimate(spec: Spec, gpus: str, classes: int = CLASSES) -> Estimate:
    machines = fleets(spec, [gpus], [], None)
    return estimates(spec, classes, flops(spec, classes, spec.train.steps), machines, Assumptions())[0]


def said(spec: Spec, gpus: str) -> dict[str, str]:
    return dict(of_teams(estimate(spec, gpus), spec.train.micro_batches))


@pytest.mark.parametrize(("name", "team", "gigabytes"), [("7b", 2, 54), ("13b", 4, 56)])
def test_a_plan_names_the_team_and_the_bytes_of_a_worker(
    name: str, team: int, gigabytes: int, prose: Path, tmp_path: Path
) -> None:
    """By hand, for 7 B: 12 / 2 + 2.03 / 8 bytes per parameter, 2.2 GB of a unit at work, 8 GB of activations and the rest."""
    spec = large(prose, tmp_path, name)
    found = estimate(spec, "H100:8")
    held = found.memory if found.fits == "fits" else found.recomputed
    assert (found.team, found.workers, found.smallest) == (team, 8, None)
    assert held.total == pytest.approx(gigabytes * 1e9, rel=0.03)
    assert held == footprint(in_teams_of(spec, team), CLASSES, 8, recompute=True)
    sentence = said(spec, "H100:8")["teams"]
    assert sentence.startswith(f"8 x H100: {8 // team} teams of {team}, and each worker takes {gigabytes // 10}")
    assert sentence.endswith(" GB of 80 GB")


@pytest.mark.parametrize(
    ("name", "gpus", "smallest"),
    [
        ("7b", "H100", "a team of 2 H100 with train.recompute: full, or a team of 4 without"),
        ("13b", "H100:2", "a team of 4 H100"),
        ("70b", "H100:8", "a team of 32 H100 with train.recompute: full"),
        ("1.5b", "L4", "a team of 2 L4 with train.recompute: full, or a team of 8 without"),
    ],
)
def test_a_fleet_that_is_too_small_is_told_the_smallest_that_fits(
    name: str, gpus: str, smallest: str, prose: Path, tmp_path: Path
) -> None:
    spec = large(prose, tmp_path, name)
    found = estimate(spec, gpus)
    sentence = said(spec, gpus)["too large"]
    assert found.fits == "too large" and found.smallest
    assert sentence.split("; ")[1] == f"smallest that fits: {smallest}"
    assert sentence.startswith(f"{found.fleet.label}: a worker") and " takes " in sentence
    room = FULL * found.fleet.memory
    for size, fits in ((found.smallest.recomputing, True), (found.smallest.recomputing // 2, False)):
        assert (footprint(in_teams_of(spec, size), CLASSES, size, recompute=True).total <= room) == fits
    assert estimate(spec, f"{found.fleet.name}:{found.smallest.recomputing}").fits != "too large", "and it does"


def test_whole_teams_count(prose: Path, tmp_path: Path) -> None:
    spec = large(prose, tmp_path, "7b", **{"scale.team": 4})
    eight, ten = estimate(spec, "H100:8"), estimate(spec, "H100:10")
    assert (ten.workers, ten.seconds, ten.memory) == (8, eight.seconds, eight.memory)
    assert ten.checkpoints.bytes == eight.checkpoints.bytes == 4 * eight.memory.weights + 8 * eight.memory.optimizer
    assert said(spec, "H100:10")["left over"] == "2 of 10 x H100 wait, as a team has 4"
    assert "left over" not in said(spec, "H100:8") and "idle" not in said(spec, "H100:8")
    few = said(spec, "H100:2")
    assert few["too few"] == "2 x H100: a team has 4 workers; take 4 H100, or set scale.team to auto"


def test_rounds_that_are_not_full_are_told(prose: Path, tmp_path: Path) -> None:
    """512 micro-batches on 12 workers take 43 rounds."""
    spec = large(prose, tmp_path, "7b")
    why = "train.micro_batches: 512 is no multiple of 12, the workers of all whole teams"
    assert said(spec, "H100:12")["idle"] == f"12 x H100: 4 of 516 turns are idle per step, as {why}"
    assert estimate(spec, "H100:12").step_seconds == pytest.approx(estimate(spec, "H100").step_seconds * 43 / 512)
    assert said(spec, "H100:1024")["idle"].startswith("512 of 1024 x H100 have nothing to do")


def test_what_teams_cannot_do_is_told(prose: Path, tmp_path: Path) -> None:
    spec = large(prose, tmp_path, "7b", **{"train.compile": True})
    facts = of_teams(estimate(spec, "H100:8"), 512)
    assert [text for name, text in facts if name == "teams"][1].startswith("train.compile: no team")
    assert said(spec, "H100")["teams"].startswith("train.compile: no team"), "nor can the smallest fleet that fits"


def test_the_page_and_json_have_the_teams(prose: Path, tmp_path: Path) -> None:
    spec = large(prose, tmp_path, "7b", **{"data.tokenizer": {"kind": "bytes"}})
    found = plan(spec, gpus=["H100:8", "L4:2"])
    page, facts = " ".join(found.table().split()), found.to_dict()["machines"]
    assert "8 x H100: 4 teams of 2, and each worker takes" in page
    assert "smallest that fits: a team of 8 L4 with train.recompute: full" in page
    assert "a unit that its team has gathered" in page
    assert [(one["team"], one["workers"]) for one in facts] == [(2, 8), (2, 2)]
    assert facts[1]["smallest"]["recomputing"] == 8
    json.dumps(facts, allow_nan=False)
