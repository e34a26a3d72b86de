"""Properties of types of devices, tested without the devices."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from foundray.host.devices import DEVICES, device_type, traits


def test_a_cpu_computes_in_main_memory_and_in_fp32() -> None:
    cpu = traits(torch.device("cpu"))
    assert cpu.in_main_memory and cpu.collectives == "gloo" and cpu.free_bytes(torch.device("cpu")) is None
    assert cpu.hardware(torch.device("cpu")) == torch.backends.cpu.get_cpu_capability()
    with cpu.low_precision():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_a_worker_with_a_gpu_computes_on_a_known_type() -> None:
    assert [device_type(gpu) for gpu in (False, True)] == list(DEVICES)


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match="no device type 'meta'; the types are cpu, cuda"):
        traits(torch.device("meta"))


def test_the_table_needs_no_torch() -> None:
    code = "import sys, foundray.host.devices; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
