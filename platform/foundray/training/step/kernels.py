"""How operations become kernels: one without a deterministic kernel is refused, and layers can be compiled."""

from __future__ import annotations

from foundray.errors import InputError
from foundray.model.model import Model

SHAPES_COMPILED = 64
"""Most shapes of micro-batches that a layer is compiled for; beyond it, torch continues without compiling."""


def unfit(error: RuntimeError) -> InputError | None:
    """An explanation for an operation of a model or objective without a deterministic kernel; None for other errors."""
    operation, found, _ = str(error).partition(" does not have a deterministic implementation")
    if not found:
        return None
    return InputError(
        f"train.exact: {operation.split()[-1]} has no deterministic kernel on this GPU, so bits would differ between runs: "
        "compute it another way, or set train.exact: false"
    )


def compile_layers(model: Model) -> None:
    """Fuse the operations of each layer; all layers share the compiled code.

    Every shape of micro-batch has its own kernels: with dynamic shapes, a shape's kernel, and so its bits, would depend on
    the shapes that a worker saw before.
    """
    from torch._dynamo import config  # imported here: it takes a second, and most runs do not need it

    config.recompile_limit = SHAPES_COMPILED
    for part in (model.model, model.predictor):
        for layer in part.layers if part is not None else ():
            layer.compile(dynamic=False)
