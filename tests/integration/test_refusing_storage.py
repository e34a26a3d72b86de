"""A run on an object store (a real S3 server) that refuses uploads, deletes, or both for a while loses nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.command import foundray, foundray_here
from tests.object_store import CREDENTIALS, ObjectStore, deletes, object_store, uploads

SECONDS = 8.0
"""Longer than pyarrow's client retries by itself."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with object_store() as store:
        yield store


@pytest.mark.thorough
def test_a_run_whose_storage_refuses_for_a_while(own_ray: None, shared_spec: Path, storage: Path, server: ObjectStore) -> None:
    began: list[float] = []

    def refuses(method: str, path: str) -> bool:
        if "checkpoints/step-" in path and uploads(method, path) and not began:
            began.append(time.monotonic())
        if not began or path.startswith("/bucket/runs/prepared"):
            return False
        away = (time.monotonic() - began[0]) // SECONDS
        return (uploads(method, path) and away < 2) or (deletes(method, path) and away >= 1)

    server.refuses = refuses
    run = server.url("runs/refused")
    ended = foundray("train", shared_spec, "--set", "name=refused", "--set", f"storage={server.url('runs')}", "--json")
    assert {method for method, _ in server.refused} >= {"POST", "DELETE"}
    refused = [path for method, path in server.refused if uploads(method, path)]
    assert any("/refused/events/" in path or "/refused/metrics/" in path for path in refused), "the record itself, too"
    steps = [record for record in records(run) if "event" not in record]
    assert [record["step"] for record in steps] == list(range(1, 13)), "the whole record"
    events = [record["event"] for record in records(run) if "event" in record]
    assert (events[0], events[-1], events.count("workers_started")) == ("command", "finished", 1)
    assert all("/metrics/" not in name or name.endswith(".jsonl") for name in server.names())
    assert "every one used exactly once" in foundray_here("audit", run).out
    plain = foundray_here("train", shared_spec, "--set", "name=plain", "--set", f"storage={storage / 'plain'}", "--json")
    assert ended.facts["weights_sha256"] == plain.facts["weights_sha256"]


def records(run: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in foundray_here("logs", run, "--json").out.splitlines()]
