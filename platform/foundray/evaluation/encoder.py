"""A run's encoder: units to hidden states, and hidden states to features.

Runs on this machine, without Ray. All units are visible: none is masked or dropped, whatever the objective does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from foundray.contract import Plan, Units
from foundray.data.prepare.reader import Reader, Row
from foundray.data.stream.batch import packed
from foundray.errors import InputError
from foundray.model.model import Batch, Model, initialise, mean_over
from foundray.runs.run import Run
from foundray.spec import Spec
from foundray.storage import writing
from foundray.training.checkpoints.checkpoint import MASTER, load_weights
from foundray.training.checkpoints.memory import in_memory_or_files
from foundray.training.step.teacher import NAME as TEACHER

__all__ = [
    "POOLS", "Encoder", "Layer", "Pool", "Reader", "Row", "batches", "check_pool", "counts", "features", "model_of", "pooled",
    "raw", "trained_weights",
]  # fmt: skip

UnitsPool = Literal["mean", "last", "mean_std", "flatten"]
Pool = Literal[UnitsPool, "class"]
"""How a sample's hidden states become its features; `class` takes the class unit's, or that of a document's opening token."""
Layer = Literal["last", "all"] | int

UNITS_PER_BATCH = 2**14


class Encoder:
    """A run's frozen network: a batch's units [B, T] or [B, T, K] to hidden states [B, T, D].

    States of `all` layers are concatenated along D. With a class unit they are [B, 1 + T, D], and its state comes first.
    """

    def __init__(self, model: Model, layer: Layer = "last"):
        """`layer` is the layer whose output to take; `last` is after the final norm. Raises InputError if it is too deep."""
        depth, self.all = len(model.model.layers), layer == "all"
        if isinstance(layer, int) and not 0 <= layer <= depth:
            raise InputError(f"layer: the model has {depth} layers, so it is 0 (embedded units) to {depth}, last or all")
        if isinstance(layer, int):  # drop the layers after it, and the final norm
            model.model.layers, model.model.norm = model.model.layers[:layer], nn.Identity()
        self.model = model.eval()

    @staticmethod
    def trained(run: Run, layer: Layer = "last", step: int | None = None) -> Encoder:
        """An encoder with the weights of the newest complete checkpoint, or of the one at `step`.

        Uses the teacher's weights if the objective has one, as its papers do. Raises InputError if there is no checkpoint.
        """
        return Encoder.of(run.spec(), run.manifest()["vocabulary"], trained_weights(run, step)[1], layer)

    @staticmethod
    def of(spec: Spec, vocabulary: int, weights: dict[str, Tensor], layer: Layer = "last") -> Encoder:
        """An encoder with a spec's shape that uses the given weights, without a copy, for ids below `vocabulary`.

        Raises InputError if the layer is too deep.
        """
        return Encoder(model_with(weights, spec, vocabulary), layer)

    @staticmethod
    def untrained(run: Run, seed: int, layer: Layer = "last") -> Encoder:
        """An encoder of the run's shape at initialisation."""
        model = model_of(run.spec(), run.manifest()["vocabulary"])
        initialise(model, seed)
        return Encoder(model, layer)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        if not self.all:
            return self.model.encode(batch)
        states: list[Tensor] = []
        self.model.encode(batch, states)
        return torch.cat(states, -1)


def raw(batch: Batch) -> Tensor:
    """The units' own values [B, T, K], in place of an encoder's output."""
    return batch.x


def features(encode: Callable[[Batch], Tensor], samples: Iterable[Units], pool: Pool) -> np.ndarray:
    """Features [N, F] float32, one row per sample. Raises InputError for pool `flatten` if lengths differ."""
    parts = [pooled(encode, batch, pool).numpy() for batch in batches(samples)]
    if len({part.shape[1] for part in parts}) > 1:
        raise InputError(_UNEVEN)
    return np.concatenate(parts)


def check_pool(spec: Spec, pool: Pool) -> None:
    """Raises InputError for `class` if the run's model has no unit whose state summarises a sample."""
    objective, gives = spec.objective.build(), spec.data.modality.build().gives
    if pool == "class" and not spec.model.class_unit and (objective.causal or gives != "tokens"):
        why = "is causal, so its first unit does not see what follows" if objective.causal else "has no class unit"
        instead = "last or mean" if objective.causal else "mean, or a run with model.class_unit: true"
        raise InputError(f"pool: class: the run's model {why}; use {instead}")


def pooled(encode: Callable[[Batch], Tensor], batch: Batch, pool: Pool) -> Tensor:
    """Features [B, F], one row per sample of the batch. Only the pool `class` uses the class unit's state."""
    states = encode(batch)
    if pool == "class":
        return states[:, 0]
    return POOLS[pool](states[:, states.shape[1] - batch.valid.shape[1] :], batch.valid)


def counts(samples: Iterable[Units]) -> np.ndarray:
    """Frequency of each id in a sample, relative to its length: [N, classes] float32."""
    return np.stack([np.bincount(units.x, minlength=units.classes) / len(units) for units in samples]).astype(np.float32)


def batches(samples: Iterable[Units]) -> Iterator[Batch]:
    """Batches of the samples in order, with all units visible."""
    rest = iter(samples)
    while first := next(rest, None):
        some = [first, *islice(rest, max(1, UNITS_PER_BATCH // len(first)) - 1)]
        yield Batch.load(packed([Plan(units, ()) for units in some]), torch.device("cpu"))


def trained_weights(run: Run, step: int | None = None) -> tuple[int, dict[str, Tensor]]:
    """Step and weights of the newest complete checkpoint, or of the one at `step`: the teacher's if the objective has one.

    Weights larger than this machine's memory stay in files. Raises InputError if there is no checkpoint, or no room for them.
    """
    state = TEACHER if run.spec().objective.build().teaches else MASTER
    with writing(f"the weights of {run.folder.name} in {tempfile.gettempdir()}"):
        return load_weights(run.checkpoints, state, step, run.lineage(), in_memory_or_files)[:2]


def model_with(weights: dict[str, Tensor], spec: Spec, vocabulary: int) -> Model:
    """A model of a spec's shape that uses these tensors as its weights, without a copy."""
    with torch.device("meta"):
        model = model_of(spec, vocabulary)
    model.set_tables(torch.device("cpu"))
    model.load_state_dict(weights, assign=True)
    return model


def model_of(spec: Spec, vocabulary: int) -> Model:
    """A model of a spec's shape, for ids below `vocabulary`, with arbitrary weights."""
    return Model(spec.model, spec.objective.build(), spec.unit_shape(vocabulary))


def _mean_std(states: Tensor, valid: Tensor) -> Tensor:
    mean = mean_over(states, valid)
    return torch.cat([mean, mean_over((states - mean[:, None]) ** 2, valid).sqrt()], 1)


def _last(states: Tensor, valid: Tensor) -> Tensor:
    return states[torch.arange(len(states)), valid.sum(1) - 1]


def _flatten(states: Tensor, valid: Tensor) -> Tensor:
    if not valid.all():
        raise InputError(_UNEVEN)
    return states.flatten(1)


_UNEVEN = "pool: flatten needs samples of one length, and these have several; use mean, last or mean_std"

POOLS: dict[UnitsPool, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": mean_over, "last": _last, "mean_std": _mean_std, "flatten": _flatten,
}  # fmt: skip
"""Functions from hidden states [B, T, D] and a mask of units [B, T] to features [B, F], which ignore padding."""
