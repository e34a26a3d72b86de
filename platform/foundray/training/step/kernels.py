"""The kernels that a device computes with: in which precision, and whether they give the same bits each time.

On a GPU some backward passes (attention, gathering, scattering) add with atomics, in whatever order threads come: two runs
then differ in the last bits. torch has deterministic kernels for these, and cuBLAS is deterministic with a fixed workspace.
"""

from __future__ import annotations

import contextlib
import os

import torch

from foundray.errors import InputError
from foundray.model.model import Model

SHAPES_COMPILED = 64
"""Shapes of micro-batches for which a layer is compiled at most; beyond, torch goes on without."""


def choose_kernels(device: torch.device, exact: bool) -> None:
    """On a GPU, for the whole process: where bits count, only kernels that give the same ones each time.

    An operation that has none then raises RuntimeError (see `unfit`).
    """
    if device.type != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(exact)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nobody reads such memory here


def unfit(error: RuntimeError) -> InputError | None:
    """What to say of an operation of somebody's model or objective that has no deterministic kernel, if that is what it is."""
    operation, told, _ = str(error).partition(" does not have a deterministic implementation")
    if not told:
        return None
    return InputError(
        f"train.exact: {operation.split()[-1]} has no deterministic kernel on this GPU, and bits would differ between runs: "
        "compute it another way, or set train.exact: false"
    )


def compile_layers(model: Model) -> None:
    """Fuse the operations of each layer, all of which share what is compiled.

    Every shape of micro-batch has kernels of its own: with dynamic ones, which kernel a shape gets would depend on the shapes
    that a worker saw before, and so would its bits.
    """
    from torch._dynamo import config  # not above: it takes a second, and most runs have no use for it

    config.recompile_limit = SHAPES_COMPILED
    for part in (model.model, model.predictor):
        for layer in part.layers if part is not None else ():
            layer.compile(dynamic=False)


def low_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bf16 matrix products on GPUs that have them; fp32 otherwise."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", torch.bfloat16)
    return contextlib.nullcontext()
