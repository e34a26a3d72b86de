"""Runs on a GPU, on real Ray: alone, two that share it, and one that dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.command import FOUNDRAY, foundray
from tests.gpu.devices import needs_gpu
from tests.processes import descendants, title

from foundray.model.flops import known_peak
from foundray.testing.specs import small_spec, write_spec
from foundray.testing.waiting import wait_until

pytestmark = [*needs_gpu, pytest.mark.alone]

SHAPE = {"model__width": 128, "model__depth": 3, "model__heads": 4, "model__context": 256, "train__micro_batch_size": 8}


@pytest.fixture(scope="module")
def gpu_spec(prose: Path, storage: Path) -> Path:
    changes = SHAPE | {"scale__resources": {"CPU": 1, "GPU": 1}, "train__steps": 60, "train__checkpoint_every": 20}
    return write_spec(storage, small_spec(prose, storage / "runs", **changes))


@pytest.fixture(scope="module")
def alone(gpu_spec: Path) -> dict[str, Any]:
    return foundray("train", gpu_spec, "--set", "name=alone", "--json").facts


def shared(name: str) -> list[str]:
    """Two workers on the one GPU."""
    changes = [f"name={name}", "scale.workers=2", "scale.resources.GPU=0.5"]
    return [part for change in changes for part in ("--set", change)]


def records(storage: Path, run: str, file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (storage / "runs" / run / file).read_text().splitlines()]


def test_a_run_learns_and_reports_how_well_it_uses_the_gpu(alone: dict[str, Any], storage: Path) -> None:
    assert alone["state"] == "finished"
    assert alone["val_loss"] < 2.3
    (ready,) = (event for event in records(storage, "alone", "events.jsonl") if event["event"] == "member_ready")
    assert ready["device"] == "cuda:0"
    assert ready["hardware"] == torch.cuda.get_device_name()
    (began,) = (event for event in records(storage, "alone", "events.jsonl") if event["event"] == "workers_started")
    assert began["device"] == "cuda:0"
    assert began["peak_flops"] == known_peak(ready["hardware"])


def test_again_and_two_workers_give_the_same_bits(alone: dict[str, Any], gpu_spec: Path) -> None:
    again = foundray("train", gpu_spec, "--set", "name=again", "--json").facts
    two = foundray("train", gpu_spec, *shared("two"), "--json").facts
    assert (two["workers"], again["workers"]) == (2, 1)
    assert alone["weights_sha256"] == again["weights_sha256"] == two["weights_sha256"]
    assert alone["val_loss"] == two["val_loss"]


def test_a_compiled_run_gives_the_same_bits_on_two_workers(alone: dict[str, Any], gpu_spec: Path) -> None:
    one = foundray("train", gpu_spec, "--set", "name=fused", "--set", "train.compile=true", "--json").facts
    two = foundray("train", gpu_spec, *shared("fused-two"), "--set", "train.compile=true", "--json").facts
    assert one["weights_sha256"] == two["weights_sha256"] != alone["weights_sha256"]
    assert one["val_loss"] == pytest.approx(alone["val_loss"], rel=5e-3)


def test_a_killed_worker_leaves_no_trace(alone: dict[str, Any], gpu_spec: Path, storage: Path) -> None:
    command = [FOUNDRAY, "train", str(gpu_spec), *shared("killed"), "--json"]
    metrics = storage / "runs" / "killed" / "metrics.jsonl"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") >= 10, 120, "10 steps", process)
        members = [pid for pid in descendants(process.pid) if "ray::Worker" in title(pid)]
        os.kill(members[0], signal.SIGKILL)
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    facts = json.loads(out.splitlines()[-1])
    assert facts["weights_sha256"] == alone["weights_sha256"]
    assert facts["restarts"] >= 1


def test_what_was_learned_is_sampled_and_judged(alone: dict[str, Any], storage: Path) -> None:
    """On the CPU, from a GPU's checkpoint."""
    text = foundray("sample", storage / "runs" / "alone", "--prompt", "def ", "--tokens", 10, "--json").facts["text"]
    assert text.startswith("def ")


def test_a_search_has_trials_on_the_gpu(gpu_spec: Path) -> None:
    sets = [
        "tune.trials=2",
        "tune.ladder=0",
        "tune.rungs=1",
        "tune.proxy={width: 32, depth: 2}",
        "tune.budget=20",
        "name=searched",
    ]
    found = foundray("tune", gpu_spec, *(part for one in sets for part in ("--set", one)), "--json")
    assert found.status == 0, found.out + found.err


def test_doctor_looks_at_the_gpu() -> None:
    said = foundray("doctor").out
    assert "on cpu and cuda" in said
    assert "(bf16)" in said


def test_the_checkup_measures_the_gpu() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "foundray.preflight.checkup.product", "1", "1"], capture_output=True, text=True, check=True
    ).stdout
    (device,) = json.loads(said)["devices"][:1]
    assert device["dtype"] == "bf16"
    assert device["tflops"] > 10
