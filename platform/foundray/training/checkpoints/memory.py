"""Memory that a checkpoint is read into: the process's own, or files that the system pages in and out."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

DTYPES = {torch.float32: "F32", torch.uint8: "U8"}
"""safetensors' names of the kinds of numbers that a state has."""
LARGE = 2**31
"""Bytes of weights from which on commands read them into files: less, and any machine has the memory."""
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


def in_memory_or_files(name: str, count: int, dtype: torch.dtype) -> Tensor:
    """The process's own memory, or for a large tensor that of a file, which needs no name once it is mapped. Raises OSError."""
    if count * dtype.itemsize < LARGE:
        return in_memory(name, count, dtype)
    with tempfile.TemporaryDirectory() as folder:
        return in_files(Path(folder))(name, count, dtype)


def apart(weights: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The same tensors, which lie in one file's memory, each as a mapping of its own.

    Writers of other libraries copy tensors that share one storage, or put all of them into one file.
    """
    return {
        name: torch.from_numpy(np.memmap(file, np.float32, "r+", int(tensor.storage_offset()) * 4, tuple(tensor.shape)))
        for name, tensor in weights.items()
    }


def stream_tensors(stream: Any, tensors: Mapping[str, Sequence[Tensor]]) -> tuple[int, str]:
    """Write tensors, each given in parts along its first axis, as a safetensors file; returns its size and SHA-256.

    One part after another is written: the library's own writer copies all of them twice first. The format: the header's length
    in 8 bytes, the header in JSON, and the numbers, as https://github.com/safetensors/safetensors#format says; the widest
    numbers come first, so that all are aligned.
    """
    header: dict[str, Any] = {}
    at = 0
    order = sorted(tensors, key=lambda name: (-tensors[name][0].element_size(), name))
    for name in order:
        first, size = tensors[name][0], sum(part.nbytes for part in tensors[name])
        shape = [sum(map(len, tensors[name])), *first.shape[1:]]
        header[name] = {"dtype": DTYPES[first.dtype], "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    sha, written = hashlib.sha256(), 0
    parts = (part for name in order for part in tensors[name])
    for piece in chain([memoryview(len(text).to_bytes(8, "little") + text)], map(_bytes, parts)):
        stream.write(piece)
        sha.update(piece)
        written += len(piece)
    return written, sha.hexdigest()


def _bytes(part: Tensor) -> memoryview:
    numbers = part.detach().cpu().contiguous().numpy()
    return numbers.astype(numbers.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8).data
