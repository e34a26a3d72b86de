"""The rows in an offline file of W&B's: a log in LevelDB's format of W&B's own protocol buffers.

The package writes these files by a program of its own, and has no reader for Python.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAGIC = b":W&B"
HEADER = 7
"""Bytes before the first record (the magic, two bytes, the version), and before each part of one (CRC-32, length, kind)."""
BLOCK = 32 * 1024
"""No part of a record crosses a multiple of this."""
WHOLE, LAST = 1, 4
"""Kinds of parts that end a record."""


def history(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the logged rows, in order; those after damage, or after an unfinished end, are left out."""
    from wandb.proto.wandb_internal_pb2 import Record

    for content in _records(file.read_bytes()):
        record = Record.FromString(content)
        if record.HasField("history"):
            yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}


def _records(content: bytes) -> Iterator[bytes]:
    if content[: len(MAGIC)] != MAGIC:
        return
    at, parts = HEADER, b""
    while at + HEADER <= len(content):
        if (room := BLOCK - at % BLOCK) < HEADER:
            at += room
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        at += HEADER + length
        if at > len(content) or not WHOLE <= kind <= LAST:
            return
        parts += content[at - length : at]
        if kind in (WHOLE, LAST):
            yield parts
            parts = b""
