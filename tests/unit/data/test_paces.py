"""Workers' paces: sums that are kept up to date agree with those over all workers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundray.data.stream.shares import Paces

SECONDS = st.floats(0.01, 10)


@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 5), SECONDS), max_size=20), st.integers(1, 50))
def test_paces_answer_as_if_all_workers_were_looked_at(workers: int, notes: list[tuple[int, float]], left: int) -> None:
    paces = Paces(workers)
    known: dict[int, float] = {}
    for rank, seconds in notes:
        if rank < workers:
            paces.note(rank, seconds)
            known[rank] = seconds
    unknown = sum(known.values()) / len(known) if known else 1.0
    pace = [known.get(rank, unknown) for rank in range(workers)]
    assert paces.all() == pytest.approx(pace)
    paces.settle()
    for rank in range(workers):
        assert paces.of(rank) == pytest.approx(pace[rank])
        assert paces.share(rank) == pytest.approx(1 / pace[rank] / sum(1 / seconds for seconds in pace))
        others = [seconds for other, seconds in enumerate(pace) if other != rank]
        limit = min(others) + left / sum(1 / seconds for seconds in others) if others else float("inf")
        if pace[rank] != pytest.approx(limit):
            assert paces.others_finish_first(left, rank) == (pace[rank] > limit)


def test_no_measurement_is_none() -> None:
    paces = Paces(2)
    paces.note(0, 0.0)
    assert paces.measured == {} and paces.all() == [1.0, 1.0]
