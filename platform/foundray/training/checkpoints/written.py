"""A checkpoint's metadata: its manifest, with a record per shard file. Nothing here needs torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, model_validator

from foundray.runs.checkpoints import MANIFEST, place
from foundray.storage import Store, sha256
from foundray.training.checkpoints.coverage import problem_of
from foundray.training.step.blocks import BLOCK


class ShardFile(BaseModel):
    file: str
    ranges: list[tuple[int, int]]
    """Block ranges [start, stop) whose state the file holds, one after another."""
    bytes: int
    sha256: str
    generation: int = 0
    """Generation of the worker group that wrote it."""

    @model_validator(mode="before")
    @classmethod
    def _of_one_range(cls, fields: Any) -> Any:
        """Accept the form of earlier versions."""
        if isinstance(fields, dict) and "first_block" in fields and "ranges" not in fields:
            first = fields["first_block"]
            return {**fields, "ranges": [(first, first + fields.get("blocks", 0))]}
        return fields


class CheckpointManifest(BaseModel):
    step: int
    """Optimizer steps done."""
    fingerprint: str
    """Fingerprint of the spec that made it."""
    arithmetic: dict[str, int] = {}
    """Arithmetic version by part; a part that is not named had version 1."""
    optimizer: str
    parameters: list[tuple[str, list[int], int]]
    """Name, shape and first block of each, in flat order."""
    shards: list[ShardFile]
    lineage: str = ""
    """Id of the last cut under which the state was made; empty if there was none."""
    losses: list[tuple[int, float]] | None = None
    """The spike guard's window, (step, loss); None in checkpoints from before it was part of the state."""

    @property
    def blocks(self) -> int:
        """Number of blocks of the whole state."""
        return max((first + -(-math.prod(shape) // BLOCK) for _, shape, first in self.parameters), default=0)

    def problem(self) -> str:
        """Why the shards are not the whole state; empty if they are."""
        return coverage(self.shards, self.blocks)


def coverage(shards: Sequence[ShardFile], blocks: int) -> str:
    """Why shards are not the whole state of `blocks` blocks; empty if they are."""
    return problem_of(((shard.file, shard.ranges, shard.generation) for shard in shards), blocks)


def commit(folder: Store, manifest: CheckpointManifest) -> str:
    """Make the checkpoint complete, now that all its shards are written; returns the manifest's SHA-256. Raises InputError."""
    content = manifest.model_dump_json(indent=1).encode()
    (place(folder, manifest.step, manifest.lineage) / MANIFEST).write_bytes(content)
    return sha256(content)
