"""How operations become kernels: one without a deterministic kernel is refused, and layers can be compiled."""

from __future__ import annotations

from foundray.errors import InputError
from foundray.model.model import Model

SHAPES_COMPILED = 64
"""Most shapes of micro-batches that a layer is compiled for; beyond it, torch continues without compiling."""


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
