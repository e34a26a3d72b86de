"""Which worker took which micro-batch: as runs, and as the plain lists of earlier versions."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundray.records.takers import EVERY, MOST_PAIRS, counts, may_be_missing, ranks, recorded, runs, runs_of


@given(st.lists(st.integers(0, 5)))
def test_runs_hold_what_the_list_held(listed: list[int]) -> None:
    packed = runs(listed)
    assert list(ranks(packed)) == list(ranks(listed)) == listed
    assert runs_of(listed) == runs_of(packed) == packed
    assert counts(packed) == counts(listed)
    assert all(one[0] != other[0] for one, other in pairwise(packed)), "no run is split"


@pytest.mark.parametrize("takers", [[[0]], [[0, 0]], [[0, -1]], [["0", 1]], [None], [[0, 1], 2], [True], [0, "1"], "ab"])
def test_what_is_no_run_is_refused(takers: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"is not \[rank, count\]"):
        runs_of(takers)


@given(st.lists(st.integers(0, 200), min_size=1, max_size=500), st.integers(1, 300))
def test_a_record_holds_all_runs_or_all_counts_or_nothing(listed: list[int], step: int) -> None:
    held = recorded(step, listed)
    if len(runs(listed)) <= MOST_PAIRS:
        assert held == runs(listed)
    elif held:
        assert held == sorted(counts(listed).items())
    else:
        assert may_be_missing(step, workers=max(listed) + 1)


def test_the_record_does_not_grow_with_the_workers() -> None:
    """Ten million steps of 4,096 micro-batches: a few GB for any number of workers."""
    for workers in (8, 64, 512, 2000):
        dealt = [index % workers for index in range(4096)]
        sizes = [len(json.dumps(recorded(step, dealt), separators=(",", ":"))) for step in range(EVERY)]
        assert sum(sizes) / EVERY < 600


def test_only_a_large_groups_record_may_be_without_takers() -> None:
    assert may_be_missing(7, 65) and not may_be_missing(7, 64) and not may_be_missing(100, 65)
