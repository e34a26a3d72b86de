"""Fingerprints of the data of steps, computed again from the prepared shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from foundray.data.stream.batch import combined, fingerprint
from foundray.data.stream.plan import StreamPlan, read_micro_batches

STEPS_AT_ONCE = 64


def fingerprints(plan: StreamPlan, positions: Sequence[int], per_step: int) -> dict[int, str]:
    """Fingerprints of the steps' data at sorted positions in the order, by position."""
    found: dict[int, str] = {}
    for stretch in _stretches(positions):
        payloads = list(read_micro_batches(plan, stretch.start * per_step, len(stretch) * per_step))
        for index, position in enumerate(stretch):
            found[position] = combined(list(map(fingerprint, payloads[index * per_step : (index + 1) * per_step])))
    return found


def _stretches(positions: Sequence[int]) -> Iterator[range]:
    """Runs of consecutive positions, of STEPS_AT_ONCE at most."""
    first = 0
    for index, position in enumerate(positions):
        follows = index + 1 < len(positions) and positions[index + 1] == position + 1
        if not follows or index + 1 - first == STEPS_AT_ONCE:
            yield range(positions[first], position + 1)
            first = index + 1
