"""Whole teams of any workers on any nodes: of one kind of device each, of one node first, and as many as there can be."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from foundray.spec.running import ScaleConfig
from foundray.training.protocol.members import Member
from foundray.training.protocol.messages import Status
from foundray.training.protocol.teams import in_teams
from foundray.training.slots.slot import Slot


def members(places: list[tuple[str, str]]) -> dict[int, Member]:
    """A worker for each (node, kind of device)."""
    return {
        number: Member(number, Slot(node, (), ""), 0.0, 0.0, Status(facts={"hardware": kind}))
        for number, (node, kind) in enumerate(places, 1)
    }


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(("H100", "A100"))), max_size=20),
    st.integers(1, 4),
    st.integers(4, 20),
)
def test_teams_are_whole_and_of_one_kind(places: list[tuple[str, str]], size: int, most: int) -> None:
    of = members(places)
    found = in_teams(list(of), of, ScaleConfig(workers=(1, most), team=size))
    teams = [found[first : first + size] for first in range(0, len(found), size)]
    assert all(len(team) == size and len({of[number].hardware for number in team}) == 1 for team in teams) or size == 1
    assert len(set(found)) == len(found)
    could = sum(count // size * size for count in Counter(kind for _, kind in places).values())
    assert len(found) == (min(could, most // size * size) if size > 1 else min(len(places), most))


def test_workers_of_one_node_come_first() -> None:
    of = members([("a", "H100"), ("b", "H100"), ("b", "A100"), ("b", "H100"), ("a", "A100"), ("c", "H100")])
    assert in_teams(list(of), of, ScaleConfig(workers=(2, 6), team=2)) == [2, 4, 1, 6, 3, 5]
    assert in_teams(list(of), of, ScaleConfig(workers=(2, 3), team=2)) == [2, 4]
    assert in_teams([6, 1], of, ScaleConfig(workers=(1, 6))) == [6, 1], "without teams the order is kept"
