"""Schedules of faults on nodes with a network stack each, between which packets are lost; `make chaos` runs odd seeds here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chaos.disk import Disk
from tests.chaos.journey import Journey, Undisturbed
from tests.chaos.lan import Lan
from tests.chaos.schedules import schedule, seeds
from tests.chaos.site import Site, head_of
from tests.hooked import Pace


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    try:
        made = Lan()
    except PermissionError as error:
        pytest.skip(f"no networks can be made here: {error}")
    yield made
    made.close()


@pytest.fixture(scope="module")
def journey(lan: Lan, chaos_spec: Path, calm: Undisturbed, chaos_pace: Pace, disk: Disk | None) -> Iterator[Journey]:
    cluster = head_of(Path(tempfile.mkdtemp(prefix="fr-")), lan)
    made = Journey(Site(cluster, lan, chaos_pace.environment), chaos_spec, calm, chaos_pace, disk, "apart")
    yield made
    try:
        made.finish()
    finally:
        cluster.down()


@pytest.mark.thorough
@pytest.mark.parametrize("seed", seeds((), odd=True))
def test_a_disturbed_run_on_a_network_has_the_same_state_after_its_faults(seed: int, journey: Journey) -> None:
    journey.disturb(seed, schedule(seed, parted=True))
