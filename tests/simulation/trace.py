"""Prints what happens in a simulated world."""

from __future__ import annotations

from typing import Any

from tests.simulation.driver import Driver
from tests.simulation.worker import Worker
from tests.simulation.world import World

from foundray.training.protocol import messages as m


def traced(world: type[World]) -> type[World]:
    """The same world, whose decisions, faults and broken groups are printed with their times."""

    class _Group(world.make_group):  # type: ignore[misc, name-defined]
        def fail(self, reason: str, by: Worker | None = None, **changes: Any) -> None:
            if not self.over:
                print(f"{self.world.clock.now:9.2f}     group {self.join.generation} fails at step {self.done}: {reason}")
            super().fail(reason, by, **changes)

    class Traced(world):  # type: ignore[misc, valid-type]
        make_group = _Group

        def decided(self, driver: Driver, decision: m.Decision) -> None:
            print(f"{self.clock.now:9.2f} command {self.drivers.index(driver) + 1} {_short(decision)}")

        def struck(self, fault: object) -> None:
            print(f"{self.clock.now:9.2f} !! {fault}")

    return Traced


def _short(decision: m.Decision) -> str:
    text = str(decision)
    return text if len(text) < 200 else f"{text[:197]}..."
