"""Memory that a checkpoint is read into: the process's own, or files that the system pages in and out."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

DTYPES = {torch.float32: "F32"}
"""safetensors' names of the kinds of numbers that weights have."""
Room = Callable[[str, int, torch.dtype], Tensor]
"""Gives memory for a tensor: by its name, its number of elements and their type."""


def in_memory(name: str, count: int, dtype: torch.dtype) -> Tensor:
    """The process's own memory."""
    return torch.empty(count, dtype=dtype)


def file_in(folder: Path, name: str) -> Path:
    """The file of `in_files` that holds a tensor."""
    return folder / f"{name}.memory"


def in_files(folder: Path) -> Room:
    """Memory in files of an existing local folder: weights may be larger than the machine's memory. It raises OSError."""

    def room(name: str, count: int, dtype: torch.dtype) -> Tensor:
        file = file_in(folder, name)
        with file.open("wb") as stream:
            os.posix_fallocate(
                stream.fileno(), 0, max(1, count * dtype.itemsize)
            )  # a full disk is an error here, not a crash later
        try:
            return torch.from_file(str(file), shared=True, size=count, dtype=dtype)
        except RuntimeError as error:  # the file system, or the process's address space, does not allow it
            raise OSError(errno.ENOMEM, f"{file} cannot be mapped: {error}") from None

    return room


def apart(weights: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The same tensors, which lie in one file's memory, each as a mapping of its own.

    Writers of other libraries copy tensors that share one storage, or put all of them into one file.
    """
    return {
        name: torch.from_numpy(np.memmap(file, np.float32, "r+", int(tensor.storage_offset()) * 4, tuple(tensor.shape)))
        for name, tensor in weights.items()
    }


def stream_tensors(stream: Any, tensors: Mapping[str, Tensor]) -> None:
    """Write fp32 tensors as a safetensors file, one after another: the library's own writer copies all of them first.

    The format: the header's length in 8 bytes, the header in JSON, and the numbers, as
    https://github.com/safetensors/safetensors#format says.
    """
    header: dict[str, Any] = {}
    at = 0
    for name, tensor in tensors.items():
        place = [at, at + tensor.nbytes]
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        at += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        stream.write(tensor.detach().contiguous().numpy().astype("<f4", copy=False).data)
