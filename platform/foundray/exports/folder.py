"""Reader of exported folders: `foundray.load`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from foundray.contract import Units, Values
from foundray.data.prepare.sources import BadRow
from foundray.errors import InputError
from foundray.evaluation.encoder import Encoder, Layer, Pool, Reader, Row, check_pool, features, model_of, model_with
from foundray.exports import IDENTITY
from foundray.exports.destination import LAST
from foundray.exports.stock import WEIGHTS
from foundray.spec import SourceConfig, Spec
from foundray.spec.loading import checked
from foundray.storage import Store

WEIGHTS_FILE = re.compile(r"model(-\d+-of-\d+)?\.safetensors")


class Folder:
    """An exported folder, in place of its run for reading and encoding."""

    def __init__(self, folder: Store):
        """Raises InputError if the folder is not an export."""
        self.folder = folder
        if not (folder / LAST).exists():
            raise InputError(f"{folder} is not an export of a run, or is incomplete: there is no {LAST} in it")
        try:
            self.identity: dict[str, Any] = json.loads((folder / IDENTITY).read_text())
            dict(self.identity["spec"]), int(self.identity["data"]["vocabulary"]), self.identity["class"]
            files = dict(self.identity.get("files_sha256", {WEIGHTS: ""}))
            if not files or not all(map(WEIGHTS_FILE.fullmatch, files)):
                raise ValueError("it names other files than those of weights")
        except (InputError, ValueError, TypeError, LookupError):
            raise InputError(f"{folder} is not an export of a run: there is no readable {IDENTITY} in it") from None

    def spec(self) -> Spec:
        spec = checked(Spec, dict(self.identity["spec"]), str(self.folder / IDENTITY))
        return spec.begun_with(self.identity.get("arithmetic", {}))

    def manifest(self) -> dict[str, Any]:
        """The data's fields that a reader needs."""
        data: dict[str, Any] = self.identity["data"]
        return data

    def encoder(self, layer: Layer) -> Encoder:
        """The encoder. Raises InputError if the folder holds a stock class's weights, which differ from Foundray's."""
        spec, vocabulary, state = self.spec(), self.identity["data"]["vocabulary"], self._weights()
        with torch.device("meta"):
            wanted = model_of(spec, vocabulary).state_dict()
        if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in wanted.items()}:
            raise InputError(f"{self.folder} holds weights for transformers' {self.identity['class']}, which loads it")
        return Encoder(model_with(state, spec, vocabulary), layer)

    def _weights(self) -> dict[str, Tensor]:
        """All weights by name, from one file or several. Raises InputError."""
        state: dict[str, Tensor] = {}
        for name in self.identity.get("files_sha256", [WEIGHTS]):
            file = self.folder / name
            try:
                state |= {name: tensor.float() for name, tensor in safetensors.load(file.read_bytes()).items()}
            except SafetensorError as error:
                raise InputError(f"{file} is damaged: {error}") from None
        return state


class Loaded:
    """A frozen pre-trained encoder: data in, one row of features per sample out."""

    def __init__(self, folder: Folder, layer: Layer):
        self.identity = folder.identity
        """Run, step, objective, modality and SHA-256s."""
        self.spec = folder.spec()
        self.reader, self.encoder = Reader(folder), folder.encoder(layer)

    def encode(self, source: str | SourceConfig, pool: Pool = "mean") -> np.ndarray:
        """Features [N, F] float32, one row per sample of files like the run's.

        A source given by its path is read as `files`, or as plain text. Raises InputError, also for an unreadable part.
        """
        check_pool(self.spec, pool)
        return features(self.encoder, [units for _, units in self.samples(source)], pool)

    def encode_texts(self, texts: Sequence[str], pool: Pool = "mean") -> np.ndarray:
        """Features [N, F] float32, one row per text, which is cut to the model's context. Raises InputError."""
        if isinstance(self.reader.modality, Values):
            raise InputError(f"the run learned from {self.identity['modality']}, not from text: encode takes files")
        check_pool(self.spec, pool)
        return features(self.encoder, [self.reader.text_units(text) for text in texts], pool)

    def samples(self, source: str | SourceConfig) -> Iterator[tuple[Row, Units]]:
        """Yield the source's rows and samples, in order. Raises InputError."""
        if isinstance(source, str):
            source = SourceConfig(path=source, format="files" if isinstance(self.reader.modality, Values) else "text")
        for row in self.reader.read(source):
            if isinstance(row, BadRow):
                raise InputError(f"{source.path} ({row.position}): {row.reason}")
            yield row, self.reader.units(row)


def load(location: str, layer: Layer = "last") -> Loaded:
    """Load an export from a path or URL. Raises InputError."""
    return Loaded(Folder(Store.at(location)), layer)
