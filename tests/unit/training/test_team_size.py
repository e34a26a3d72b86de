"""The size of teams that follows from the memory of the GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.repository import REPOSITORY

from foundray.errors import InputError
from foundray.spec import Spec
from foundray.spec.loading import load_spec
from foundray.training.team_size import check_room, in_teams_of, with_team

CLASSES = 65536


def large(prose: Path, tmp_path: Path, name: str, **changes: Any) -> Spec:
    sources = [{"path": str(prose), "format": "text"}]
    given = {"data.sources": sources, "storage": str(tmp_path), "scale.team": "auto", "scale.workers": [1, 64], **changes}
    return load_spec(str(REPOSITORY / "examples" / "large" / f"{name}.yaml"), given)


@pytest.mark.parametrize(
    ("name", "kind", "team"),
    [("1.5b", "H100", 1), ("1.5b", "A10G", 2), ("7b", "H100", 2), ("7b", "A100", 4), ("7b", "H200", 2), ("13b", "H100", 4)],
)
def test_the_smallest_team_that_fits(name: str, kind: str, team: int, prose: Path, tmp_path: Path) -> None:
    """Ray's `A100` may be one of 40 or 80 GB, so it counts as the smaller."""
    said: list[str] = []
    chosen = with_team(large(prose, tmp_path, name), CLASSES, [kind], said.append)
    assert chosen.scale.team_size == team
    assert len(said) == (team > 1)
    assert chosen.fingerprint() == large(prose, tmp_path, name).fingerprint()


def test_only_what_is_known_counts(prose: Path, tmp_path: Path) -> None:
    said: list[str] = []
    spec = large(prose, tmp_path, "7b")
    for kinds in ([], ["H100", "TPU-V4"]):
        assert with_team(spec, CLASSES, kinds, said.append) is spec
    on_cpus = large(prose, tmp_path, "7b", **{"scale.resources": {"CPU": 2}})
    assert with_team(on_cpus, CLASSES, ["H100"], said.append) is on_cpus
    given = large(prose, tmp_path, "7b", **{"scale.team": 8})
    assert with_team(given, CLASSES, ["A10G"], said.append) is given
    assert said == []
    pools = {"big": {"workers": [0, 8], "accelerator": "H100", "resources": {"GPU": 1}}}
    pools["shared"] = {"workers": [0, 8], "accelerator": "H100", "resources": {"GPU": 0.5}}
    halves = large(prose, tmp_path, "7b", **{"scale": {"pools": {**pools, "big": {**pools["big"], "workers": [1, 8]}}}})
    assert with_team(halves, CLASSES, [], said.append).scale.team_size == 4, "half of a GPU has half of its memory"


def test_what_teams_cannot_do_is_refused(prose: Path, tmp_path: Path) -> None:
    compiled = large(prose, tmp_path, "7b", **{"train.compile": True})
    with pytest.raises(InputError, match=r"takes 14\d GB, and 76 GB can be .*so teams of 2 would hold it; but train.compile"):
        with_team(compiled, CLASSES, ["H100"], print)


def test_a_machine_without_room_for_a_team_is_refused(prose: Path, tmp_path: Path) -> None:
    spec = large(prose, tmp_path, "7b", **{"scale.team": 4})
    check_room(spec, {"": (1, 4)})
    expected = "^scale.team: the smallest group has 4 workers, in teams of 4, and there is room for 3: .* 3, or"
    with pytest.raises(InputError, match=expected):
        check_room(spec, {"big": (1, 2), "small": (0, 1)})
    check_room(in_teams_of(spec, 1), {"": (1, 1)})
