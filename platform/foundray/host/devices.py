"""What differs between types of devices. A new type is one class and one row of `DEVICES`.

torch is imported inside methods only, so that processes without it can read the constants.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Device:
    """A type of device. These defaults suit one that computes in main memory, in fp32."""

    chunk: int = 2**16
    """Elements that a pass over a long tensor processes at once, so that what lies between fits the cache."""
    in_main_memory: bool = True
    """Whether its tensors lie in main memory. If not, copies go faster by way of pinned memory."""
    compiles: bool = False
    """Whether `train.compile` applies."""
    collectives: str = "gloo"
    """torch's backend for workers that each have such a device."""

    def hardware(self, device: torch.device) -> str:
        """The hardware's name, as far as it decides about bits."""
        raise NotImplementedError

    def uuid(self, device: torch.device) -> str:
        """An identity that two workers share only if they share the device."""
        raise NotImplementedError

    def free_bytes(self, device: torch.device) -> int | None:
        """Memory for new tensors, including what torch keeps for reuse; None for main memory, which a node's workers share."""
        return None

    def release_memory(self) -> None:
        """Return memory that torch keeps for reuse."""

    def prefer_equal_bits(self, exact: bool) -> None:
        """For the whole process: if `exact`, allow only kernels that give the same bits each time."""

    def low_precision(self) -> AbstractContextManager[object]:
        """A context for matrix products in bf16, if the device has it; otherwise one that changes nothing."""
        return nullcontext()


class Cpu(Device):
    def hardware(self, device: torch.device) -> str:
        import torch

        return torch.backends.cpu.get_cpu_capability()


class Cuda(Device):
    chunk = 2**22
    in_main_memory = False
    compiles = True
    collectives = "nccl"

    def hardware(self, device: torch.device) -> str:
        import torch

        return torch.cuda.get_device_name(device)

    def uuid(self, device: torch.device) -> str:
        import torch

        return str(torch.cuda.get_device_properties(device).uuid)

    def free_bytes(self, device: torch.device) -> int:
        import torch

        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept

    def release_memory(self) -> None:
        import torch

        torch.cuda.empty_cache()

    def prefer_equal_bits(self, exact: bool) -> None:
        import torch

        # Some backward passes (attention, gathering, scattering) add with atomics, in the order in which threads come: two
        # runs then differ in the last bits. torch has deterministic kernels for these; cuBLAS needs a fixed workspace.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(exact)
        # Nobody reads such memory here.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    def low_precision(self) -> AbstractContextManager[object]:
        import torch

        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()


DEVICES: Mapping[str, Device] = {"cpu": Cpu(), "cuda": Cuda()}
"""By `torch.device.type`."""


def device_type(gpu: bool) -> str:
    """The `torch.device.type` of a worker with or without a GPU."""
    return "cuda" if gpu else "cpu"


def traits(device: torch.device) -> Device:
    """Look up a device by its type. Raises ValueError for an unknown one."""
    if device.type not in DEVICES:
        raise ValueError(f"there is no device type {device.type!r}; the types are {', '.join(DEVICES)}")
    return DEVICES[device.type]
