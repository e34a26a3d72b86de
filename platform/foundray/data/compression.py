"""Compressed files, read as a stream; one that is broken is an OSError, whatever compressed it."""

from __future__ import annotations

import io
import lzma
from typing import Any

import pyarrow as pa

from foundray.data.names import compression


def decompressed(handle: pa.NativeFile, path: str) -> io.BufferedReader:
    """The content of a file, by the ending of its name."""
    match compression(path):
        case None:
            stream: Any = handle
        case "xz":  # pyarrow has it not
            stream = _Xz(handle)
        case kind:
            stream = pa.CompressedInputStream(handle, kind)
    return io.BufferedReader(stream, 2**20)


class _Xz(io.RawIOBase):
    def __init__(self, handle: pa.NativeFile):
        self.file = lzma.LZMAFile(handle)  # noqa: SIM115 - the handle is closed by whoever opened it

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return self.file.readinto(buffer)
        except (lzma.LZMAError, EOFError) as error:
            raise OSError(str(error)) from None
