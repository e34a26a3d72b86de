"""A run's first weights, if they are another run's: which of them fit, and how every worker loads them.

A run keeps a copy in its folder, so that it does not depend on the other run once it has begun. Which weights are taken
follows from the two lists of shapes alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from foundray.errors import InputError
from foundray.model.model import Model
from foundray.spec import InitFromConfig
from foundray.storage import Store, reading
from foundray.training.checkpoints.checkpoint import MASTER, sha256_of
from foundray.training.checkpoints.memory import stream_tensors
from foundray.training.step.teacher import NAME as TEACHER
from foundray.training.step.trainer import Trainer

START = "start.safetensors"
"""In the run's folder: tensors `master.NAME` and, if there is a teacher, `teacher.NAME`."""
EMBEDDING, MASK = "model.embed_tokens.weight", "model.mask"


class NoRoom(InputError):
    """The weights are there, but this machine has no room for a copy of them."""


Weights = Mapping[str, Mapping[str, Tensor]]
"""`master` and `teacher`: parameters by name."""


@dataclass(frozen=True)
class Misfit:
    """A parameter of the backbone whose shapes differ."""

    name: str
    there: tuple[int, ...] | None
    here: tuple[int, ...] | None


@dataclass(frozen=True)
class Fit:
    """Which of another run's weights a model takes."""

    taken: Mapping[str, int]
    """Number of rows by the parameter's name; a vector's rows are its elements."""
    parameters: int
    """Number of the model's parameters."""
    new: tuple[str, ...]
    """Parts that are initialised as usual."""
    misfits: tuple[Misfit, ...]
    """Parameters that must have the same shape and do not; if any, nothing should be taken."""

    def facts(self, origin: InitFromConfig) -> dict[str, Any]:
        """For the event log: how much was taken from where."""
        start = origin.model_dump(exclude={"step"}) | {"run_step": origin.step}
        return {**start, "taken": len(self.taken), "parameters": self.parameters, "new": list(self.new)}


def fit_of(model: Model, there: Mapping[str, Sequence[int]], classes: int) -> Fit:
    """Which parameters, of the shapes `there`, the model can take.

    Each head, the mask vector and the predictor are taken if all of their parameters have the same shapes. Embeddings and
    predictions of ids are rows: the first `classes` rows are the data's, and are taken even if the objective's own rows,
    which follow, differ. All else is the backbone, which must be the same.
    """
    here = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    known = {name: tuple(shape) for name, shape in there.items()}
    taken: dict[str, int] = {}
    new: dict[str, None] = {}
    for part in dict.fromkeys(map(_part, here)):
        rows = {name: _rows(model, name, known.get(name), here[name], classes) for name in here if _part(name) == part}
        if part and not all(rows.values()):
            new[part] = None
            continue
        taken |= {name: count for name, count in rows.items() if count}
        new |= {f"{n} (rows from {count})": None for n, count in rows.items() if 0 < count < here[n][0]}
    names = dict.fromkeys([*here, *known])
    misfits = [Misfit(n, known.get(n), here.get(n)) for n in names if not _part(n) and n not in taken]
    return Fit(taken, len(here), tuple(new), tuple(misfits))


def _part(name: str) -> str:
    """The part that owns a parameter: a head, the mask vector or the predictor; empty for the backbone."""
    if name == MASK:
        return MASK
    return "" if name.startswith("model.") else name.partition(".")[0]


def _rows(model: Model, name: str, there: tuple[int, ...] | None, here: tuple[int, ...], classes: int) -> int:
    """Number of rows that can be taken."""
    if there == here:
        return here[0]
    ids = name == EMBEDDING or name in {f"{head}.weight" for head in model.heads}
    data_first = ids and classes and there and there[1:] == here[1:] and min(there[0], here[0]) >= classes
    return classes if data_first else 0


def write_start(folder: Store, weights: Weights) -> None:
    """Keep a run's first weights in its folder, a tensor at a time. Raises InputError."""
    named = {f"{whose}.{name}": [tensor] for whose, of in weights.items() for name, tensor in of.items()}
    with (folder / START).replacing() as stream:
        stream_tensors(stream, named)


def read_start(folder: Store, wanted: InitFromConfig) -> dict[str, dict[str, Tensor]]:
    """Read the weights that `write_start` kept: they stay in the file until they are used, one by one.

    Raises InputError if they are not those of the spec.
    """
    file = folder / START
    try:
        with _local(file) as place:
            named = safetensors.load_file(place)
    except NoRoom:
        raise
    except (InputError, SafetensorError) as error:
        raise InputError(f"{_lost(file, wanted)}: {error}; {_advice(folder)}") from None
    found: dict[str, dict[str, Tensor]] = {MASTER: {}, TEACHER: {}}
    for key, tensor in named.items():
        whose, _, name = key.partition(".")
        found.setdefault(whose, {})[name] = tensor
    for whose, sha in ((MASTER, wanted.weights_sha256), (TEACHER, wanted.teacher_sha256)):
        if sha and sha256_of(found[whose]) != sha:
            raise InputError(f"{_lost(file, wanted)}: the SHA-256 of its {whose} weights is not {sha[:16]}…; {_advice(folder)}")
    return found


@contextmanager
def _local(file: Store) -> Iterator[str]:
    """The path of a file, or of a local copy, which needs no name any more once it is mapped.

    Raises NoRoom if there is no room for a copy.
    """
    if file.is_local:
        with reading(file):
            yield file.path
        return
    try:
        with tempfile.TemporaryDirectory() as folder:
            file.copy_to(copy := Path(folder) / START)
            yield str(copy)
    except OSError as error:
        raise NoRoom(f"the first weights are not copied to {tempfile.gettempdir()}: {error.strerror}") from None


def _lost(file: Store, wanted: InitFromConfig) -> str:
    return f"the weights of {wanted}, from which this run starts, are no longer in {file}"


def _advice(folder: Store) -> str:
    return f"delete {folder}, and train the same spec again"


def begin(trainer: Trainer, folder: Store, wanted: InitFromConfig, classes: int) -> Fit:
    """Set an initialised trainer's weights to the run's first ones. All workers call this.

    Raises InputError, on all of them, if one cannot read the weights.
    """
    problem, weights = None, {}
    try:
        weights = read_start(folder, wanted)
    except InputError as error:
        problem = str(error)
    if problem := next((p for p in trainer.group.share(problem) if p), None):
        raise InputError(problem)
    return take(trainer, weights, classes)


@torch.no_grad()
def take(trainer: Trainer, weights: Weights, classes: int) -> Fit:
    """Overwrite the weights that fit. The teacher takes the other teacher's weights if there is one, otherwise the model's."""
    fit = fit_of(trainer.model, {name: list(tensor.shape) for name, tensor in weights[MASTER].items()}, classes)
    for name, rows in fit.taken.items():
        trainer.overwrite(MASTER, name, weights[MASTER][name][:rows])
    if trainer.teacher:
        trainer.teacher.begin()
        for name, tensor in weights.get(TEACHER, {}).items():
            if name in fit.taken:
                trainer.overwrite(TEACHER, name, tensor[: fit.taken[name]])
    return fit
