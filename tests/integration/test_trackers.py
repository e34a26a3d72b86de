"""A run on real Ray whose driver is killed, and that is resumed: its trackers hold one run, with each step once."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.command import FOUNDRAY, foundray

from foundray.runs.run import Run
from foundray.storage import Store
from foundray.testing.waiting import wait_until

pytestmark = pytest.mark.thorough


def test_a_killed_and_resumed_run_is_one_run_at_its_trackers(spec: Path, tmp_path: Path, no_ray: None) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    pytest.importorskip("wandb", reason="wandb is not installed")
    from foundray.tracking.wandb_files import history

    uri, run = f"sqlite:///{tmp_path}/mlflow.db", Run(Store.at(tmp_path / "runs" / "small"))
    trackers = f"trackers=[{{kind: mlflow, uri: '{uri}'}}, {{kind: wandb, mode: offline}}]"
    fields = ("--set", trackers, "--set", "train.steps=160", "--set", "train.checkpoint_every=20")
    killed = subprocess.Popen([FOUNDRAY, "train", spec, *fields], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(run.records("metrics.jsonl")) > 50, 300, "steps", killed, pause=0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = foundray("resume", run.folder.path)
    assert done.status == 0, done.err
    assert "mlflow: " in done.out and "`wandb sync " in done.out and "lack" not in done.out
    log = {record["step"]: record["loss"] for record in run.records("metrics.jsonl")}
    assert sorted(log) == list(range(1, 161)) and run.facts().steps_repeated > 0
    client = mlflow.MlflowClient(uri)
    (there,) = client.search_runs([client.get_experiment_by_name("foundray").experiment_id])
    assert there.info.status == "FINISHED"
    held = {metric.step: metric.value for metric in client.get_metric_history(there.info.run_id, "train/loss")}
    assert held == log
    files = sorted((tmp_path / "runs" / "small" / "wandb").glob("offline-run-*/*.wandb"), key=os.path.getmtime)
    rows = [row for file in files for row in history(file) if "train/loss" in row]
    assert [(row["step"], row["train/loss"]) for row in rows] == sorted(log.items())
