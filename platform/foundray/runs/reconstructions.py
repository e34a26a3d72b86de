"""What a run's model made of a few validation samples at an evaluation: a file of arrays, for the report and TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from foundray.errors import InputError
from foundray.runs.run import RECONSTRUCTIONS
from foundray.storage import Store


@dataclass(frozen=True)
class Reconstruction:
    """A sample. Arrays are [height, width] or [height, width, 3], from 0 to 1, for a picture, or [N] for a curve."""

    input: np.ndarray
    prediction: np.ndarray
    shown: np.ndarray | None
    """The input with NaN in place of what is hidden from the model; None if nothing is."""


def file_of(run: Store, step: int) -> Store:
    """The file of the evaluation after a step."""
    return run / RECONSTRUCTIONS / f"step-{step:08d}.safetensors"


def packed(found: Mapping[int, Reconstruction]) -> bytes:
    """Samples by number as the content of a file, in fp16."""
    arrays = {f"{number}.{name}": value for number, one in found.items() for name, value in vars(one).items()}
    content: bytes = safetensors.save(
        {name: np.ascontiguousarray(value, np.float16) for name, value in arrays.items() if value is not None}
    )
    return content


def unpacked(content: bytes) -> dict[int, Reconstruction]:
    """Samples by number. Raises InputError for a damaged file."""
    try:
        arrays = {name: value.astype(np.float32) for name, value in safetensors.load(content).items()}
        numbers = sorted({int(name.partition(".")[0]) for name in arrays})
        return {n: Reconstruction(arrays[f"{n}.input"], arrays[f"{n}.prediction"], arrays.get(f"{n}.shown")) for n in numbers}
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"the reconstructions are damaged: {error}") from None


def read_reconstructions(run: Store, step: int) -> list[Reconstruction]:
    """Those of the evaluation after a step; empty if its file is missing or damaged."""
    try:
        return list(unpacked(file_of(run, step).read_bytes()).values())
    except InputError:
        return []
