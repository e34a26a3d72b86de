"""The canary distinguishes machines that compute different bits, even if their instruction sets have the same name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest
import torch

from foundray.spec import ModelConfig
from foundray.training.elastic.canary import TOKENS, WIDTH, HardwareKind, canary, differences, hardware_kind, narrowed

CPU = torch.device("cpu")
SHAPE = {"width": 64, "depth": 2, "heads": 4, "context": 32}
PROGRAM = """
import json, sys, torch
from foundray.spec import ModelConfig
from foundray.training.elastic.canary import hardware_kind
torch.set_num_threads(1)
print(json.dumps(hardware_kind(ModelConfig(**json.loads(sys.argv[1])), True, torch.device("cpu"))))
"""


def elsewhere(**environment: str) -> HardwareKind:
    """Canary of another process, whose libraries avoid some instructions."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(SHAPE)]
    said = subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True, text=True).stdout
    found: HardwareKind = json.loads(said.splitlines()[-1])
    return found


def test_equal_machines_are_alike_and_another_path_through_the_libraries_is_found() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    here = hardware_kind(ModelConfig(**SHAPE), True, CPU)
    assert torch.equal(torch.rand(1), expected), "the canary leaves torch's generator alone"
    assert differences([here, elsewhere()]) == ""
    # As on another vendor's machine: same instruction set by name, but matrix products take a different path.
    other = elsewhere(MKL_CBWR="COMPATIBLE")
    assert other["hardware"] == here["hardware"]
    if torch.backends.mkl.is_available():
        assert differences([here, other]) == "gradients of the same layer " + " and ".join(
            sorted([here["gradient"], other["gradient"]])
        )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        ({"torch": "2.10"}, "torch 2.10 and 2.9"),
        ({"bitsandbytes": "0.51", "threads": "8"}, "bitsandbytes 0.50 and 0.51, CPU threads 4 and 8"),
        ({"hardware": "AVX2", "gradient": "0b"}, "AVX2 and AVX512, gradients of the same layer 0a and 0b"),
    ],
)
def test_what_differs_is_named(changes: dict[str, str], expected: str) -> None:
    one = {"hardware": "AVX512", "gradient": "0a", "torch": "2.9", "bitsandbytes": "0.50", "threads": "4"}
    assert differences([one, {**one, **changes}, one]) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm": "ln", "act": "gelu", "bias": True, "rope_theta": None},
        {"width": 96, "heads": 3, "context": 5},
        {"width": 4096, "heads": 32, "context": 2048},
    ],
)
def test_it_works_for_every_shape_of_layer_and_is_cheap(changes: dict[str, Any]) -> None:
    shape = ModelConfig(**{**SHAPE, **changes})
    canary(ModelConfig(**SHAPE), True, CPU)  # the first computation of a process loads libraries
    began = time.process_time()
    found = canary(shape, True, CPU)
    assert time.process_time() - began < 3.0  # a tenth of that on an idle machine
    assert found == canary(shape, True, CPU)
    assert narrowed(shape).width <= WIDTH and min(TOKENS, shape.context) >= 5
    if not changes:
        assert found != canary(shape, False, CPU), "a bidirectional objective computes different bits"


def test_it_names_versions_and_threads() -> None:
    found = hardware_kind(ModelConfig(**SHAPE), True, CPU)
    assert found["torch"] == torch.__version__ and found["threads"] == str(torch.get_num_threads())
    assert len(found["gradient"]) == 8
