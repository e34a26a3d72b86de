"""Which worker took which micro-batch: as runs, and as the plain lists of earlier versions."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundray.records.takers import counts, ranks, runs, runs_of


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
