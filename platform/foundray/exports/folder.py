"""An exported folder, read again: `foundray.load`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors import torch as safetensors

from foundray.contract import Units, Values
from foundray.data.prepare.sources import BadRow
from foundray.errors import InputError
from foundray.evaluation.encoder import Encoder, Layer, Pool, Reader, Row, check_pool, features, model_of
from foundray.exports import IDENTITY
from foundray.exports.place import LAST
from foundray.spec import SourceConfig, Spec
from foundray.spec.loading import checked
from foundray.storage import Store


class Folder:
    """Stands for the run that it came from, as far as reading and encoding go."""

    def __init__(self, folder: Store):
        """Raises InputError where it is no export."""
        self.folder = folder
        if not (folder / LAST).exists():
            raise InputError(f"{folder} is not an export of a run, or not a whole one: there is no {LAST} in it")
        try:
            self.identity: dict[str, Any] = json.loads((folder / IDENTITY).read_text())
            dict(self.identity["spec"]), int(self.identity["data"]["vocabulary"]), self.identity["class"]
        except (InputError, ValueError, TypeError, LookupError):
            raise InputError(f"{folder} is not an export of a run: there is no readable {IDENTITY} in it") from None

    def spec(self) -> Spec:
        spec = checked(Spec, dict(self.identity["spec"]), str(self.folder / IDENTITY))
        return spec.begun_with(self.identity.get("arithmetic", {}))

    def manifest(self) -> dict[str, Any]:
        """Of the data: what a reader needs of it."""
        data: dict[str, Any] = self.identity["data"]
        return data

    def encoder(self, layer: Layer) -> Encoder:
        """Raises InputError where a stock class holds other weights than Foundray's."""
        model, file = model_of(self.spec(), self.identity["data"]["vocabulary"]), self.folder / "model.safetensors"
        try:
            state = safetensors.load(file.read_bytes())
        except SafetensorError as error:
            raise InputError(f"{file} is damaged: {error}") from None
        if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in model.state_dict().items()}:
            raise InputError(f"{self.folder} holds weights for transformers' {self.identity['class']}, which loads it")
        model.load_state_dict(state)
        return Encoder(model, layer)


class Loaded:
    """A pre-trained encoder, frozen: data in, one row of features a sample out."""

    def __init__(self, folder: Folder, layer: Layer):
        self.identity = folder.identity
        """What it is: run, step, objective, modality, SHA-256s."""
        self.spec = folder.spec()
        self.reader, self.encoder = Reader(folder), folder.encoder(layer)

    def encode(self, source: str | SourceConfig, pool: Pool = "mean") -> np.ndarray:
        """[N, F] float32, one row a sample of files like those of the run. Raises InputError, for an unreadable part, too.

        A source given by its path is of `files`, or of plain text.
        """
        check_pool(self.spec, pool)
        return features(self.encoder, [units for _, units in self.samples(source)], pool)

    def encode_texts(self, texts: Sequence[str], pool: Pool = "mean") -> np.ndarray:
        """[N, F] float32, one row a text; of a longer one than the model's context, what comes first. Raises InputError."""
        if isinstance(self.reader.modality, Values):
            raise InputError(f"the run learned from {self.identity['modality']}, not from text: encode takes files")
        check_pool(self.spec, pool)
        return features(self.encoder, [self.reader.text_units(text) for text in texts], pool)

    def samples(self, source: str | SourceConfig) -> Iterator[tuple[Row, Units]]:
        """The source's samples in order, and where each comes from. Raises InputError."""
        if isinstance(source, str):
            source = SourceConfig(path=source, format="files" if isinstance(self.reader.modality, Values) else "text")
        for row in self.reader.read(source):
            if isinstance(row, BadRow):
                raise InputError(f"{source.path} ({row.position}): {row.reason}")
            yield row, self.reader.units(row)


def load(location: str, layer: Layer = "last") -> Loaded:
    """What `foundray export` wrote, at a path or URL. Raises InputError."""
    return Loaded(Folder(Store.at(location)), layer)
