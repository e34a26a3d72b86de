"""The default number of workers on one machine: one per core, as far as memory allows.

The number never changes the result. Several workers with one thread each are preferred to one with several threads, since
the number of threads may change bits on some processors.
"""

from __future__ import annotations

from typing import NamedTuple

from foundray.host.machine import available_memory
from foundray.spec import Spec
from foundray.wording.words import plural, size

PROCESSES = 600_000_000
"""Bytes of a worker without its model: its process and the one that holds its slot, as measured, and a margin."""
SHARE = 0.8
"""Fraction of the available memory for workers; the driver, the data and others need the rest. Judgement."""


class Choice(NamedTuple):
    workers: int
    """Largest number of workers."""
    reason: str
    """Why this number, for people."""


def choose(spec: Spec, classes: int, cores: int, memory: int | None = None) -> Choice:
    """Choose the number of workers on a machine with `cores` cores, for data with ids below `classes` (0 for values).

    `memory` is the available memory in bytes (default: this machine's).
    """
    most = min(cores, spec.train.micro_batches)
    reason = "one for each core" if most == cores else f"one for each micro-batch of a step, of {plural(cores, 'core')}"
    usable = SHARE * (available_memory() if memory is None else memory)
    # Try the cheap bound first: the exact footprint needs torch.
    for workers in range(most, 1, -1):
        if workers * (PROCESSES + _upper_bound(spec, classes)) <= usable or workers * _needed(spec, classes, workers) <= usable:
            break
    else:
        workers = 1
    if workers < most:
        each = size(_needed(spec, classes, workers + 1))
        reason = f"{reason} would be {most}, but {workers + 1} take {each} each, and {size(usable)} can be planned with"
    return Choice(workers, reason)


def with_workers(spec: Spec, workers: int) -> Spec:
    """The spec with a scale of one to `workers` workers, so that a worker that is lost or lacks memory does not end the run."""
    return spec.model_copy(update={"scale": spec.scale.model_copy(update={"workers": (1, workers)})})


def _upper_bound(spec: Spec, classes: int) -> int:
    """A generous bound of a worker's bytes, computed without torch, whose import takes a second."""
    model, hidden = spec.model, spec.model.hidden_width
    values = spec.unit_shape(classes).width
    layers = model.depth + model.of_predictor.depth
    parameters = layers * model.width * (4 * model.width + 3 * hidden) + 4 * (classes + values + model.context) * model.width
    units = 2 * spec.train.micro_batch_size * model.context
    activations = layers * (48 * model.width + 24 * hidden + 8 * model.context) + 16 * (classes + values + model.width)
    return 60 * parameters + units * activations


def _needed(spec: Spec, classes: int, workers: int) -> int:
    """Bytes per worker, if there are `workers`."""
    from foundray.training.footprint import footprint

    found = footprint(spec, classes, workers, on_gpu=False)
    return PROCESSES + found.total + found.copies
