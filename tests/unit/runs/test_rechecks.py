"""Which step a loss of trust goes back to."""

from __future__ import annotations

from typing import Any

import pytest

from foundray.runs.rechecks import last_rechecked


def step(number: int, **fields: Any) -> dict[str, Any]:
    return {"step": number, **fields}


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"event": kind, **fields}


PASSED, ALONE = {"rechecked": True}, {"rechecked": False}


@pytest.mark.parametrize(
    ("story", "last"),
    [
        ([], 0),
        ([step(4, **PASSED), step(5), step(8, **PASSED), step(9)], 8),
        ([step(4, **PASSED), step(8, **ALONE), step(12, **ALONE)], 4),
        ([step(4, **ALONE), step(8, **PASSED)], 8),
        ([step(4), step(8)], 0),  # of a version that did not say
        ([step(8, **PASSED), event("workers_started", step=8), step(9)], 8),
        ([step(8, **PASSED), event("workers_started", step=6), step(7), step(8, **ALONE)], 6),
        ([step(8, **PASSED), event("rolled_back", to=4, cut="a"), step(5)], 4),
        ([step(8, **PASSED), event("left_out", to=0, cut="a", trusted=0)], 0),
        ([step(8, **PASSED), event("evaluated", step=8)], 8),
        ([event("branched", step=20), event("workers_started", step=20), step(21)], 20),
        ([event("rolled_back", to=4, cut="a"), step(8, **PASSED), event("rolled_back", to=4, cut="a")], 8),
    ],
)
def test_the_last_step_that_a_recheck_has_passed(story: list[dict[str, Any]], last: int) -> None:
    assert last_rechecked(story) == last
