"""The interval at which checkpoints pay."""

import pytest

from foundray.testing.clock import SimulatedClock
from foundray.training.checkpoints.interval import Interval, young_daly


def test_young_daly() -> None:
    assert young_daly(2.0, 3600.0) == pytest.approx(120.0)
    assert young_daly(0.5, 3600.0) == pytest.approx(60.0)
    assert young_daly(10_000.0, 60.0) == 60.0


def test_more_failures_and_cheaper_checkpoints_shorten_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimulatedClock()
    clock.install(monkeypatch.setattr)

    def waits(cost: float, failures: int) -> float:
        interval = Interval()
        interval.saved(1, cost)
        began = clock.monotonic()
        while not interval.pays(2, failures):
            clock.advance(1.0)
        return clock.monotonic() - began

    assert waits(1.0, 0) > waits(1.0, 50) > waits(0.1, 50) > 1
    interval = Interval()
    assert not interval.pays(0, 0)
    clock.advance(61)
    assert interval.pays(5, 0)
