"""What a run's encoder makes of data: units to hidden states, hidden states to features.

On this machine, without Ray. Everything is shown: nothing is hidden and no unit is left out, whatever the objective does.
"""

from __future__ import annotations

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
from foundray.training.checkpoints.checkpoint import MASTER, load_weights
from foundray.training.step.teacher import NAME as TEACHER

__all__ = [
    "POOLS", "Encoder", "Layer", "Pool", "Reader", "Row", "batches", "check_pool", "counts", "features", "model_of", "pooled",
    "raw", "trained_weights",
]  # fmt: skip

UnitsPool = Literal["mean", "last", "mean_std", "flatten"]
Pool = Literal[UnitsPool, "class"]
"""How the hidden states of a sample become its features: `class` is the class unit's, or a document's opening token's."""
Layer = Literal["last", "all"] | int

UNITS_AT_ONCE = 2**14


class Encoder:
    """A run's network, frozen: a batch's units [B, T] or [B, T, K] to hidden states [B, T, D]; of `all` layers side by side.

    With a class unit they are [B, 1 + T, D], its own before the units'.
    """

    def __init__(self, model: Model, layer: Layer = "last"):
        """`layer` is how many layers deep to look; `last` is after the final norm. Raises InputError for one too deep."""
        depth, self.all = len(model.model.layers), layer == "all"
        if isinstance(layer, int) and not 0 <= layer <= depth:
            raise InputError(f"layer: the model has {depth} layers, so it is 0 (embedded units) to {depth}, last or all")
        if isinstance(layer, int):  # what comes out of so many layers, and nothing after it is computed
            model.model.layers, model.model.norm = model.model.layers[:layer], nn.Identity()
        self.model = model.eval()

    @staticmethod
    def trained(run: Run, layer: Layer = "last", step: int | None = None) -> Encoder:
        """With the weights of the newest whole checkpoint, or of that after `step`.

        The teacher's, where the objective has one, as its papers do. Raises InputError where there is none.
        """
        return Encoder.of(run.spec(), run.manifest()["vocabulary"], trained_weights(run, step)[1], layer)

    @staticmethod
    def of(spec: Spec, vocabulary: int, weights: dict[str, Tensor], layer: Layer = "last") -> Encoder:
        """Of a spec's shape, for ids below `vocabulary`. Raises InputError for a layer too deep."""
        model = model_of(spec, vocabulary)
        model.load_state_dict(weights)
        return Encoder(model, layer)

    @staticmethod
    def untrained(run: Run, seed: int, layer: Layer = "last") -> Encoder:
        """Of the same shape, as it would be before training."""
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
    """In an encoder's place: the units' own values, [B, T, K]."""
    return batch.x


def features(encode: Callable[[Batch], Tensor], samples: Iterable[Units], pool: Pool) -> np.ndarray:
    """[N, F] float32: one row a sample. Raises InputError where samples of different lengths are to be flattened."""
    parts = [pooled(encode, batch, pool).numpy() for batch in batches(samples)]
    if len({part.shape[1] for part in parts}) > 1:
        raise InputError(_UNEVEN)
    return np.concatenate(parts)


def check_pool(spec: Spec, pool: Pool) -> None:
    """Raises InputError for `class` where the run's model has no unit whose state tells of a whole sample."""
    objective, gives = spec.objective.build(), spec.data.modality.build().gives
    if pool == "class" and not spec.model.class_unit and (objective.causal or gives != "tokens"):
        why = "looks back only, so that no first unit knows what follows" if objective.causal else "has no class unit"
        instead = "last or mean" if objective.causal else "mean, or a run with model.class_unit: true,"
        raise InputError(f"pool: class: the run's model {why}; {instead} would do")


def pooled(encode: Callable[[Batch], Tensor], batch: Batch, pool: Pool) -> Tensor:
    """[B, F]: one row a sample of the batch. A class unit's state is in the pool `class` alone."""
    states = encode(batch)
    if pool == "class":
        return states[:, 0]
    return POOLS[pool](states[:, states.shape[1] - batch.valid.shape[1] :], batch.valid)


def counts(samples: Iterable[Units]) -> np.ndarray:
    """[N, classes] float32: how often each id is in a sample, as a part of its length."""
    return np.stack([np.bincount(units.x, minlength=units.classes) / len(units) for units in samples]).astype(np.float32)


def batches(samples: Iterable[Units]) -> Iterator[Batch]:
    """Of samples in order, with everything shown."""
    rest = iter(samples)
    while first := next(rest, None):
        some = [first, *islice(rest, max(1, UNITS_AT_ONCE // len(first)) - 1)]
        yield Batch.load(packed([Plan(units, ()) for units in some]), torch.device("cpu"))


def trained_weights(run: Run, step: int | None = None) -> tuple[int, dict[str, Tensor]]:
    """The step and weights of the newest whole checkpoint, or of that of `step`: the teacher's, where the objective has one.

    Raises InputError where there is none.
    """
    whose = TEACHER if run.spec().objective.build().teaches else MASTER
    return load_weights(run.checkpoints, whose, step)[:2]


def model_of(spec: Spec, vocabulary: int) -> Model:
    """Of a spec's shape, for ids below `vocabulary`, with weights that mean nothing."""
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


_UNEVEN = "pool: flatten needs samples of one length, and these have several; mean, last or mean_std would do"

POOLS: dict[UnitsPool, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": mean_over, "last": _last, "mean_std": _mean_std, "flatten": _flatten,
}  # fmt: skip
"""Hidden states [B, T, D] and where there are units [B, T] to features [B, F]. Padding is in none of them."""
