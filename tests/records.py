"""A run's folder with records in a run's own format, made without training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from tests.conftest import small_spec

from foundray.data.prepare.manifest import Manifest, Shard
from foundray.records.schema import EVENTS
from foundray.runs.run import Run, event
from foundray.spec.loading import parse_spec

BEGAN = 1_800_000_000.0
"""Time of second 0."""


def made_run(
    folder: Path, events: Iterable[dict[str, Any]] = (), metrics: Iterable[dict[str, Any]] = (), source: str = "x", **spec: Any
) -> Run:
    """A run of the spec `small_spec` with changes; events and metrics come from `at` and `steps`."""
    text = yaml.safe_dump(small_spec(Path("x"), folder, data__sources=[{"path": source}], **spec))
    run = Run.named(parse_spec(text, "test"))
    checked = parse_spec(text, "test")
    shard = Shard(
        file="shards/0-00000.parquet", source=0, inputs=[source], documents=7, rows=1000, tokens=32_000, text_bytes=40_000,
        bytes=1, sha256="", quarantined=2,
    )  # fmt: skip
    manifest = Manifest(
        name="small", recipe={}, recipe_sha256="0" * 64, context=32, vocabulary=257, document_id=0, tokenizer_sha256="",
        rows=1000, tokens=32_000, quarantined=2, rows_per_group=10, shards=[shard],
    )  # fmt: skip
    (run.folder / "spec.yaml").write_text(checked.to_yaml())
    (run.folder / "data.json").write_text(json.dumps({"folder": str(folder / "prepared/0"), "manifest": manifest.model_dump()}))
    for file, records in (("events.jsonl", events), ("metrics.jsonl", metrics)):
        if listed := list(records):
            run.append(file, listed)
    return run


def at(second: float, name: str, **fields: Any) -> dict[str, Any]:
    """An event."""
    return {"time": BEGAN + second, **whole(name, **fields)}


def whole(name: str, **fields: Any) -> dict[str, Any]:
    """An event without its time, with some value for each required field that is not given."""
    needed = EVENTS[name].model_fields.items() if name in EVENTS else ()
    rest = {key: example(info.annotation) for key, info in needed if info.is_required() and key not in ("time", "event")}
    return event(name, **rest | fields)


def example(annotation: Any) -> Any:
    """A value that JSON can hold for a field of this type."""
    kinds = {int: 1, float: 1.0, str: "x", bool: True, list: [], tuple: [], dict: {}, Literal: "memory"}
    known = kinds.get(annotation, kinds.get(get_origin(annotation)))
    return known if known is not None else example(get_args(annotation)[0])


def steps(first: int, last: int, since: float, seconds: float = 1.0, **fields: Any) -> list[dict[str, Any]]:
    """Records of consecutive steps; the first begins at `since`."""
    return [
        {
            "time": BEGAN + since + seconds * index, "step": step, "tokens": 320 * step, "loss": 2 + 4 / step, "grad_norm": 1.0,
            "lr": 4e-3, "step_s": seconds, "data_wait_s": 0.01, "copy_s": 0.0, "tokens_per_s": 320 / seconds, "workers": 3,
            "takers": [[0, 2], [1, 2], [2, 1]], "skipped": [], "spike": False, "data": "00000000", "passed_over": 0, **fields,
        }
        for index, step in enumerate(range(first, last + 1), 1)
    ]  # fmt: skip


def troubled() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(events, metrics) of a run of 120 steps with every kind of event, some seconds apart."""
    versions = {"python": "3.11.7", "torch": "2.13.0"}
    started = {"device": "cpu", "seconds": 0.1}
    events: Sequence[dict[str, Any]] = [
        at(0, "command", workers=[1, 4], environment=versions),
        at(1, "places", pool="", request="train-1"),
        *(at(4, "member_ready", member=n, node=f"node-{n}", seconds=3.0, device="cpu", hardware="AVX512") for n in (1, 2, 3)),
        at(5, "workers_started", step=0, workers=3, state="storage", **started),
        at(25, "member_lost", member=3, node="node-3", reason="ActorDiedError"),
        at(25.1, "group_broken", step=20, reason="Connection closed by peer"),
        at(27, "workers_started", step=18, workers=2, state="memory", **started),
        at(40, "member_ready", member=4, node="node-4", seconds=3.0, device="cpu", hardware="AVX512"),
        at(40.1, "workers_started", step=31, workers=3, state="memory", **started),
        at(50, "member_left", member=1, node="node-1"),
        at(50.1, "workers_started", step=41, workers=2, state="memory", **started),
        at(50.3, "member_lost", member=1, node="node-1", reason="its node is draining"),
        at(60, "checkpoint_failed", step=50, reason="the disk is full"),
        at(90, "checkpoint_failed", step=50, reason="the disk is full"),
        at(92, "checkpoint", step=80, bytes=10, seconds=0.1),
        at(95, "left_out", step=82, node="node-4", reason="it computed different bits from the others"),
        at(95.1, "too_few", workers=1, needed=2),
        at(140, "waiting", reason="1 of at least 2 workers are ready"),
        at(150, "workers_started", step=80, workers=2, state="memory", **started),
        at(165, "rolled_back", step=94, spike=94, to=90, passed_over=4),
        at(165.2, "workers_started", step=90, workers=2, state="memory", **started),
        at(175, "unlike", step=98, reason="the hardware is of 2 kinds (AVX2, AVX512)"),
        at(180, "evaluated", step=100, val_loss=2.1, val_tokens=10, feature_spread=0.1, effective_rank=3.0, seconds=0.5),
        at(185, "failed", step=104, reason="the run failed 9 times at step 104", exit_status=1),
        at(1185, "command", workers=[1, 4], environment=versions | {"torch": "2.14.0"}),
        at(1190, "workers_started", step=100, workers=1, state="storage", **started),
        at(3200, "command", workers=[1, 4], environment=versions | {"torch": "2.14.0"}),
        at(3201, "checkpoint_skipped", step=100, reason="step-00000110 is damaged", going_on_from=100),
        at(3201, "workers_started", step=100, workers=1, state="storage", **started),
        at(3230, "evaluated", step=120, val_loss=2.05, val_tokens=10, feature_spread=0.1, effective_rank=3.0, seconds=0.5),
        at(3231, "finished", step=120, weights_sha256="ab" * 32),
    ]  # fmt: skip
    metrics = [
        *steps(1, 20, 5), *steps(19, 31, 27), *steps(32, 41, 40.1), *steps(42, 82, 50.1), *steps(81, 93, 150),
        *steps(91, 93, 165.2), *steps(94, 94, 168.2, skipped=[1, 3]), *steps(95, 95, 169.2, spike=True, loss=9.0),
        *steps(96, 104, 170.2), *steps(101, 110, 1190), *steps(101, 120, 3201),
    ]  # fmt: skip
    return list(events), metrics
