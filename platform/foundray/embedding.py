"""What a run's encoder makes of data: raw files to units, units to hidden states, hidden states to features.

On this machine, without Ray. Everything is shown: nothing is hidden and no unit is left out, whatever the objective does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from foundray.batch import packed
from foundray.contract import Modality, Plan, Units, Values
from foundray.data.sources import BadRow, RawFile, find_files, read_documents, read_located_rows
from foundray.data.tokenizer import Tokenizer
from foundray.errors import InputError
from foundray.model.model import Batch, Model, initialise, mean_over
from foundray.run import Run
from foundray.spec import Source, Spec
from foundray.storage import Store
from foundray.training.checkpoint import load_weights

UnitsPool = Literal["mean", "last", "mean_std", "flatten"]
Pool = Literal[UnitsPool, "class"]
"""How the hidden states of a sample become its features: `class` is the class unit's, or a document's opening token's."""
Layer = Literal["last", "all"] | int

UNITS_AT_ONCE = 2**14


@dataclass(frozen=True)
class Row:
    """A sample's worth of raw data, and where it comes from."""

    file: str
    """URL of the file."""
    name: str
    """Path of the file, or its name in the archive."""
    position: str
    """Where in it: `image 3`, `line 7, step 0, channel 2`, `document 4`."""
    content: dict[str, Any] | np.ndarray
    """A modality's row, or [T] token ids."""


class Origin(Protocol):
    """A run, or what was exported of one."""

    folder: Store
    """Holds the tokenizer.json, of tokens."""

    def spec(self) -> Spec: ...

    def manifest(self) -> dict[str, Any]:
        """Of its data: `context`, `vocabulary` and `document_id` at least."""


class Reader:
    """Reads other data as a run's own was read: the same modality, tokenizer and length."""

    def __init__(self, run: Origin):
        """Raises InputError for a run whose record cannot be read."""
        manifest, spec = run.manifest(), run.spec()
        self.modality: Modality = spec.data.modality.build()
        self.length, self.shape = manifest["context"], spec.unit_shape(manifest["vocabulary"])
        if not isinstance(self.modality, Values):
            text = (run.folder / "tokenizer.json").read_text()
            self.tokenizer = Tokenizer.from_json(text, manifest["document_id"])

    def read(self, source: Source) -> Iterator[Row | BadRow]:
        """The source's rows, in order. Raises InputError for a source that cannot be read."""
        values = self.modality if isinstance(self.modality, Values) else None
        if source.format != "webdataset" and (source.format == "files") != (values is not None):
            right = "files, or webdataset" if values else "text, code, jsonl, csv, parquet, fasta, conllu or webdataset"
            raise InputError(f"{source.path}: the run's data is read from {right}, not from {source.format}")
        for file in find_files(source, values.endings if values else ()):
            if values is None:
                yield from self._pieces(file, source)
                continue
            for name, position, row in read_located_rows(file, source, values, self.length):
                yield row if isinstance(row, BadRow) else Row(file.url, name, position, row)

    def _pieces(self, file: RawFile, source: Source) -> Iterator[Row | BadRow]:
        """Documents, in pieces of at most the run's context, each opened as in training."""
        for index, document in enumerate(read_documents(file, source)):
            if isinstance(document, BadRow):
                yield document
                continue
            ids = self.tokenizer.encode([document.text])[0]
            for start in range(0, max(1, len(ids)), self.length - 1):
                piece = np.concatenate([[self.tokenizer.document_id], ids[start : start + self.length - 1]])
                yield Row(file.url, Store.at(file.url).path, f"document {index}", piece.astype(np.int64))

    def units(self, row: Row) -> Units:
        if isinstance(row.content, dict):
            return self.row_units(row.content)
        return Units(row.content, None, self.shape)

    def row_units(self, content: dict[str, Any]) -> Units:
        """Of a row of a modality that has rows of its own, as it is read without augmentation."""
        assert isinstance(self.modality, Values)
        return replace(self.modality.units(content, self.length, None), shape=self.shape)


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
    def trained(run: Run, layer: Layer = "last") -> Encoder:
        """With the newest whole checkpoint's weights; the teacher's, where the objective has one, as its papers do.

        Raises InputError where there is none.
        """
        model = model_of(run)
        whose = "teacher" if run.spec().objective.build().teaches else "master"
        model.load_state_dict(load_weights(run.checkpoints, whose)[1])
        return Encoder(model, layer)

    @staticmethod
    def untrained(run: Run, seed: int, layer: Layer = "last") -> Encoder:
        """Of the same shape, as it would be before training."""
        model = model_of(run)
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


def pooled(encode: Callable[[Batch], Tensor], batch: Batch, pool: Pool) -> Tensor:
    """[B, F]: one row a sample of the batch."""
    states = encode(batch)
    if pool != "class":  # they begin with the class unit's, where there is one
        states = states[:, states.shape[1] - batch.x.shape[1] :]
    return POOLS[pool](states, batch.valid)


def check_pool(spec: Spec, pool: Pool) -> None:
    """Raises InputError for `class` where the run's model has no unit whose state tells of a whole sample."""
    objective, gives = spec.objective.build(), spec.data.modality.build().gives
    if pool == "class" and not spec.model.class_unit and (objective.causal or gives != "tokens"):
        why = "looks back only, so that no first unit knows what follows" if objective.causal else "has no class unit"
        instead = "last or mean" if objective.causal else "mean, or a run with model.class_unit: true,"
        raise InputError(f"pool: class: the run's model {why}; {instead} would do")


def counts(samples: Iterable[Units]) -> np.ndarray:
    """[N, classes] float32: how often each id is in a sample, as a part of its length."""
    return np.stack([np.bincount(units.x, minlength=units.classes) / len(units) for units in samples]).astype(np.float32)


def batches(samples: Iterable[Units]) -> Iterator[Batch]:
    """Of samples in order, with everything shown."""
    rest = iter(samples)
    while first := next(rest, None):
        some = [first, *islice(rest, max(1, UNITS_AT_ONCE // len(first)) - 1)]
        yield Batch.load(packed([Plan(units, ()) for units in some]), torch.device("cpu"))


def model_of(run: Origin) -> Model:
    """Of the run's shape, with weights that mean nothing."""
    spec = run.spec()
    return Model(spec.model, spec.objective.build(), spec.unit_shape(run.manifest()["vocabulary"]))


def _first(states: Tensor, valid: Tensor) -> Tensor:
    return states[:, 0]


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

POOLS: dict[Pool, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": mean_over, "last": _last, "mean_std": _mean_std, "flatten": _flatten, "class": _first,
}  # fmt: skip
"""Hidden states [B, T, D] and where there are units [B, T] to features [B, F]. Padding is in none of them. Where there is a
class unit, `class` is given its state before those, and the others are not."""
