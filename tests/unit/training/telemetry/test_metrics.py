"""Prometheus's numbers follow from the run's records; an export that fails harms nothing."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
from tests.unit.data.manifests import order

from foundray.data.stream.order import SampleOrder
from foundray.model.flops import known_peak
from foundray.runs.goodput import account
from foundray.runs.run import event
from foundray.testing.specs import make_spec
from foundray.training.telemetry.exporter import Exporter, Reading
from foundray.training.telemetry.metrics import METRICS, RunMetrics

SPEC = make_spec()  # 5 micro-batches of 2 samples of 32 tokens
STEP_FLOPS = 1e9
NUMBERS = {"loss": 2.0, "lr": 0.1, "grad_norm": 3.0, "tokens_per_s": 640.0, "step_s": 0.5, "data_wait_s": 0.1, "copy_s": 0.05}


class Plan:
    def order(self) -> SampleOrder:
        return order([[4000], [2000]], [3.0, 1.0])


def step(number: int, time: float, **fields: Any) -> dict[str, Any]:
    rest = {"workers": 2, "takers": [0, 0, 0, 1, 1], "skipped": [], "spike": False, "passed_over": 0, "mirrored": number - 2}
    return {"step": number, "time": time, **NUMBERS, **rest, **fields}


def happened(name: str, time: float, **fields: Any) -> dict[str, Any]:
    return event(name, time=time, **fields)


def started(time: float, at: int = 0, **fields: Any) -> dict[str, Any]:
    return happened("workers_started", time, step=at, workers=2, device="cpu", **fields)


def metrics() -> RunMetrics:
    two = SPEC.data.model_copy(update={"sources": [SPEC.data.sources[0], SPEC.data.sources[0]]})
    return RunMetrics(SPEC.model_copy(update={"data": two}), Plan(), None, lambda: STEP_FLOPS)  # type: ignore[arg-type]


def test_the_numbers_of_a_step() -> None:
    subject = metrics()
    subject.take([happened("command", 0.0), started(1.0, peak_flops=4e9), step(1, 2.0), step(2, 3.0)], 3.0)
    values = subject.read().values
    expected = {
        "running": 1, "step": 2, "target_steps": 12, "loss": 2.0, "gradient_norm": 3.0, "learning_rate": 0.1,
        "tokens_per_second": 640.0, "samples_per_second": 20.0, "workers": 2, "mirror_lag_steps": 2, "mfu": 0.5,
        "steps": 2, "tokens": 640, "steps_repeated": 0, "restarts": 0,
    }  # fmt: skip
    assert {name: values[name, ""] for name in expected} == pytest.approx(expected)
    assert [values["micro_batches", rank] for rank in "01"] == [6, 4]
    parts = {part: values["step_seconds", part] for part in ("computing", "data_wait", "copying")}
    assert parts == pytest.approx({"computing": 0.4, "data_wait": 0.1, "copying": 0.05})
    assert sum(values["source_tokens", s] for s in ("0 x", "1 x")) == 2 * 10 * 32
    assert values["source_epochs", "1 x"] == values["source_tokens", "1 x"] / 32 / 1800
    subject.take([step(3, 4.0, workers=1, mirrored=None)], 4.0)
    assert ("mirror_lag_steps", "") not in subject.read().values, "a lone worker has no replica"


def test_every_number_has_a_name_and_every_name_a_number() -> None:
    subject = metrics()
    evaluated = happened("evaluated", 2.5, step=1, val_loss=1.0, seconds=0.1, bits_per_byte=1.0, effective_rank=2.0)
    saved = happened("checkpoint", 2.6, step=1, bytes=7, seconds=0.3)
    subject.take([started(1.0, peak_flops=4e9), step(1, 2.0), evaluated, saved], 3.0)
    reading = subject.read(last=True)
    exported = {name for name, _ in reading.values} | set(reading.observed)
    assert exported == set(METRICS) - {"parcels_ready", "leases", "leases_waiting"}, "those are the feeder's"


def test_commands_before_count_for_a_run_and_not_for_rates() -> None:
    before = [happened("command", 0.0), started(1.0), happened("group_broken", 4.0), started(5.0, at=1)]
    steps = [step(1, 2.0), step(2, 3.0, skipped=[4]), step(2, 6.0)]
    subject = metrics()
    events = [*before, happened("checkpoint", 6.5, step=2, bytes=7, seconds=0.3)]
    subject.begin(sorted([*events, *steps], key=lambda record: record["time"]))
    values = subject.read().values
    expected = {
        "restarts": 1,
        "steps_repeated": 1,
        "step": 2,
        "checkpoint_step": 2,
        "not_finite": 1,
        "skipped_micro_batches": 1,
    }
    assert {name: values[name, ""] for name in expected} == expected
    assert values["faults", "group_broken"] == 1
    assert ("steps", "") not in values and not subject.read().observed["step_duration_seconds"]


def test_goodput_is_that_of_the_account_although_records_come_late() -> None:
    events = [
        happened("command", 0.0),
        started(4.0),
        happened("group_broken", 7.0),
        started(8.0, at=2),
        happened("finished", 12.0),
    ]
    steps = [step(1, 5.0), step(2, 6.0), step(3, 6.9), step(3, 9.0), step(4, 10.0)]
    subject = metrics()
    subject.take([*events[:2], *steps[:2]], 6.5)
    assert subject.read().values["time_seconds", "stepping"] == 0, "records of the last seconds may still come"
    subject.take([events[2]], 7.0)
    subject.take([steps[2]], 8.0)  # not sent by the lost rank 0
    subject.take([*events[3:], *steps[3:]], 12.0)
    values = subject.read(last=True).values
    parts = account(events, steps)
    assert {part: values["time_seconds", part] for part in parts} == pytest.approx(parts)
    assert values["goodput", ""] == pytest.approx(parts["stepping"] / sum(parts.values()))
    assert values["running", ""] == 0


def test_waiting_counts_while_it_lasts() -> None:
    subject = metrics()
    subject.take([happened("command", 0.0)], 60.0)
    assert subject.read(last=True).values["time_seconds", "starting"] == pytest.approx(60.0, abs=1)
    subject.take([started(60.0), step(1, 61.0), happened("group_broken", 62.0)], 102.0)
    values = subject.read(last=True).values
    assert values["time_seconds", "recovery"] == pytest.approx(40.0, abs=1)
    assert values["goodput", ""] == pytest.approx(0.4 / 102, abs=0.01)


def test_patience_follows_the_runs_own_pace() -> None:
    subject = metrics()
    assert subject.read().values["stalled_after_seconds", ""] == 300
    subject.take([step(1, 60.0, step_s=59.95)], 60.0)
    values = subject.read().values
    assert values["stalled_after_seconds", ""] == pytest.approx(20 * 60)
    assert values["checkpoint_old_after_seconds", ""] == pytest.approx(3 * 4 * 60)
    subject.take([happened("evaluated", 900.0, step=1, val_loss=math.inf, seconds=800.0)], 900.0)
    values = subject.read().values
    assert values["stalled_after_seconds", ""] == 2400
    assert values["not_finite", ""] == 1


def test_an_invalid_record_stops_nothing() -> None:
    subject = metrics()
    subject.take([{"step": 1}], 1.0)
    subject.take([step(1, 2.0)], 2.0)
    assert subject.read().values["step", ""] == 1


def test_fewest_and_most_workers_are_those_of_whole_teams() -> None:
    two = SPEC.data.model_copy(update={"sources": [SPEC.data.sources[0], SPEC.data.sources[0]]})
    spec = make_spec(scale__workers=[3, 9], scale__team=4).model_copy(update={"data": two})
    subject = RunMetrics(spec, Plan(), None, lambda: STEP_FLOPS)  # type: ignore[arg-type]
    assert (subject.values["workers_fewest", ""], subject.values["workers_most", ""]) == (4, 8)


def test_a_source_is_named_without_secrets_in_its_address() -> None:
    source = SPEC.data.sources[0].model_copy(update={"path": "s3://key:secret@bucket/folder/part-*.jsonl?token=secret"})
    spec = SPEC.model_copy(update={"data": SPEC.data.model_copy(update={"sources": [source, source]})})
    subject = RunMetrics(spec, Plan(), None, lambda: STEP_FLOPS)  # type: ignore[arg-type]
    assert subject.sources == ["0 part-*.jsonl", "1 part-*.jsonl"]


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA L400", None),
        ("AVX512", None),
    ],
)
def test_peaks_by_the_devices_name(device: str, peak: float | None) -> None:
    assert known_peak(device) == peak


class Told(Exporter):
    """An exporter that records what it would export."""

    def __init__(self, readings: list[Reading | Exception]):
        self.readings, self.said, self.all = iter(readings), [], threading.Event()
        super().__init__("r", METRICS, self._next)

    def _next(self, last: bool) -> Reading:
        found = next(self.readings)
        if isinstance(found, Exception):
            raise found
        return found

    def _metric(self, name: str) -> Any:
        def say(value: float, tags: dict[str, str]) -> None:
            self.said.append((name, value, tags))

        return type("Ray's", (), {"set": staticmethod(say), "inc": staticmethod(say), "observe": staticmethod(say)})


def test_counters_export_their_increase_and_failures_are_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foundray.training.telemetry.exporter.EXPORT_SECONDS", 0.01)
    readings = [
        Reading({("leases", ""): 5.0, ("loss", ""): math.nan, ("micro_batches", "1"): 0.0}, {}),
        RuntimeError("Ray is gone"),
        Reading({("leases", ""): 7.0}, {"step_duration_seconds": [0.5]}),
        Reading({("leases", ""): 2.0}, {}),  # the feeder restarted
    ]
    subject = Told(list(readings))
    subject.thread.join(1.0)  # it continues after the readings run out
    assert subject.thread.is_alive()
    subject.close()
    run = {"run": "r"}
    assert subject.said == [
        ("leases", 5.0, run), ("leases", 2.0, run), ("step_duration_seconds", 0.5, run), ("leases", 2.0, run),
    ]  # fmt: skip
    assert not subject.thread.is_alive()
