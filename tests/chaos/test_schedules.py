"""Schedules of faults on nodes that share this machine's network and memory. `make chaos` runs all even seeds here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chaos.disk import Disk
from tests.chaos.journey import Journey, Undisturbed
from tests.chaos.schedules import schedule, seeds
from tests.chaos.site import Site
from tests.hooked import Pace

from foundray.cluster.local.cluster import LocalCluster


@pytest.fixture(scope="module")
def journey(
    cluster: LocalCluster, chaos_spec: Path, calm: Undisturbed, chaos_pace: Pace, disk: Disk | None
) -> Iterator[Journey]:
    made = Journey(Site(cluster, environment=chaos_pace.environment), chaos_spec, calm, chaos_pace, disk, "together")
    yield made
    made.finish()


@pytest.mark.thorough
@pytest.mark.parametrize("seed", seeds((6, 17), odd=False))
def test_a_disturbed_run_has_the_same_state_after_its_faults(seed: int, journey: Journey) -> None:
    journey.disturb(seed, schedule(seed, parted=False))
