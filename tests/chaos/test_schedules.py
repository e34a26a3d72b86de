"""Schedules of faults on nodes that share this machine's network and memory. `make chaos` runs all even seeds here."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.chaos.disk import Disk
from tests.chaos.schedules import disturb, seeds

from foundray.cluster.local.cluster import LocalCluster


@pytest.mark.thorough
@pytest.mark.parametrize("seed", seeds((6, 17), odd=False))
def test_a_disturbed_run_ends_with_the_same_weights(
    seed: int, spec: Path, undisturbed: str, cluster: LocalCluster, disk: Disk | None
) -> None:
    disturb(seed, cluster, spec, undisturbed, disk)
