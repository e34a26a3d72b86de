"""Number of workers of a run whose spec does not set it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from foundray.errors import InputError
from foundray.host import machine
from foundray.runs.run import Run
from foundray.spec import Spec
from foundray.spec.loading import parse_spec
from foundray.storage import Store
from foundray.testing.specs import small_spec
from foundray.training.default_scale import choose, with_workers
from foundray.training.footprint import footprint

PLENTY = 10**12


def spec(tmp_path: Path, **changes: object) -> Spec:
    fields = {"scale": {}, **small_spec(tmp_path, tmp_path, **changes)}
    if not any(name.startswith("scale") for name in changes):
        del fields["scale"]
    return parse_spec(yaml.safe_dump(fields), "test")


def test_a_machine_s_cores_are_used_as_far_as_there_are_micro_batches(tmp_path: Path) -> None:
    left_open = spec(tmp_path, train__micro_batches=5)
    assert left_open.scale.is_open
    assert [choose(left_open, 257, cores, PLENTY).workers for cores in (1, 2, 4, 5, 8)] == [1, 2, 4, 5, 5]
    assert choose(left_open, 257, 4, PLENTY).reason == "one for each core"
    assert "micro-batch" in choose(left_open, 257, 8, PLENTY).reason


def test_there_are_fewer_workers_if_memory_does_not_suffice(tmp_path: Path) -> None:
    left_open = spec(tmp_path, model__width=512, model__depth=6, model__heads=8)
    found = [choose(left_open, 257, 4, memory) for memory in (10**6, 3_500_000_000, 10**10)]
    assert [choice.workers for choice in found] == [1, 2, 4]
    assert "would be 4, but 3 take" in found[1].reason


def test_the_bound_that_needs_no_torch_is_above_what_is_needed(tmp_path: Path) -> None:
    from foundray.training.default_scale import PROCESSES, _upper_bound

    for changes in ({}, {"model__width": 512, "model__depth": 8}, {"model__context": 1024}, {"train__micro_batch_size": 64}):
        one = spec(tmp_path, **changes)
        for classes in (257, 50_000):
            held = footprint(one, classes, 4, on_gpu=False)
            assert held.total + held.copies < PROCESSES + _upper_bound(one, classes)


@pytest.mark.parametrize("scale", [{"workers": 1}, {"threads": 2}, {"resources": {"CPU": 2}}, {"pools": {"a": {"workers": 2}}}])
def test_a_spec_that_sets_its_workers_keeps_them(tmp_path: Path, scale: dict[str, object]) -> None:
    assert not spec(tmp_path, scale=scale).scale.is_open


def test_the_number_that_is_chosen_is_no_part_of_the_run(tmp_path: Path) -> None:
    left_open = spec(tmp_path)
    chosen = with_workers(left_open, 4)
    assert chosen.scale.world == (1, 4)
    assert chosen.fingerprint() == left_open.fingerprint() == spec(tmp_path, scale__workers=1).fingerprint()


def test_a_run_keeps_its_number_of_threads_once_that_is_set(tmp_path: Path) -> None:
    begun = spec(tmp_path, scale__workers=1, scale__threads=2)
    run = Run(Store.at(tmp_path / "run"))
    (run.folder / "spec.yaml").write_text(begun.to_yaml())
    (run.folder / "data.json").write_text("{}")
    run.spec({"scale.workers": 3})
    run.spec({"scale.resources": {"CPU": 2}, "scale.threads": None})  # its threads follow
    with pytest.raises(InputError, match=r"scale\.threads"):
        run.spec({"scale.threads": 4})
    (run.folder / "spec.yaml").write_text(spec(tmp_path, scale__workers=1).to_yaml())
    run.spec({"scale.resources": {"CPU": 2}})  # follows from the machine, as it always did
    with pytest.raises(InputError, match=r"scale\.threads"):
        run.spec({"scale.threads": 4})


def test_cores_and_memory_are_what_affinity_and_control_group_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "GROUPS", str(tmp_path))
    monkeypatch.setattr(machine, "CPU_FOLDERS", str(tmp_path))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 4, 5})
    for cpu, siblings in ((0, "0,4"), (1, "1,5"), (4, "0,4"), (5, "1,5")):
        (tmp_path / f"cpu{cpu}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}/topology/thread_siblings_list").write_text(siblings)
    assert (machine.cores(), machine.physical_cores()) == (4, 2)
    (tmp_path / "cpu.max").write_text("max 100000")
    assert machine.cores() == 4
    (tmp_path / "cpu.max").write_text("150000 100000")
    assert (machine.cores(), machine.physical_cores()) == (1, 1)
    (tmp_path / "memory.max").write_text("3000000")
    (tmp_path / "memory.current").write_text("1000000")
    assert machine.available_memory() == 2_000_000
