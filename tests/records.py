"""Records of a run to which much happened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foundray.testing.records import event_at as at
from foundray.testing.records import step_records as steps


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
