"""Simulated storage: checkpoints and the run's log, with the faults of real storage."""

from __future__ import annotations

from typing import Any

from tests.simulation.model import BLOCKS, Weights

from foundray.runs import lineage
from foundray.runs.checkpoints import Checkpoint
from foundray.runs.lineage import Lineage
from foundray.training import rollback
from foundray.training.rollback import RollBack

Name = tuple[int, str]
"""A checkpoint's step and cut, from which its folder's name follows."""


class Away(Exception):
    """Storage does not answer."""


class Storage:
    def __init__(self) -> None:
        self.files: dict[Name, dict[str, tuple[int, Weights]]] = {}
        """Shards by checkpoint and file: (first block, content)."""
        self.manifests: dict[Name, dict[str, int]] = {}
        """Complete checkpoints: the hash of each shard."""
        self.damaged: set[Name] = set()
        self.unanswered: set[Name] = set()
        """Checkpoints that never answer, though storage does."""
        self.events: list[dict[str, Any]] = []
        """The cuts recorded, by all commands in order of time."""
        self.lineage: Lineage = ()
        self.roll_backs: tuple[RollBack, ...] = ()
        self.rechecked = 0
        """The last step that a recheck has passed, by the log."""
        self.away_until = self.refuses_until = 0.0
        """Times until which nothing answers, and until which deletes are refused."""
        self.slow_s = 0.0

    def write(self, name: Name, file: str, first: int, content: Weights) -> None:
        self.files.setdefault(name, {})[file] = (first, content)

    def commit(self, name: Name, files: list[str]) -> str:
        """Write a manifest; returns its hash."""
        there = self.files.get(name, {})
        self.manifests[name] = {file: hash(there[file]) for file in files}
        self.damaged.discard(name)
        self.unanswered.discard(name)
        return self.sha(name)

    def sha(self, name: Name) -> str:
        return str(hash(tuple(sorted(self.manifests[name].items()))))

    def delete(self, name: Name) -> None:
        self.manifests.pop(name, None)
        self.files.pop(name, None)

    def complete(self) -> list[Checkpoint]:
        """The complete checkpoints, newest first."""
        return [Checkpoint(*name) for name in sorted(self.manifests, reverse=True)]

    def load(self, checkpoint: Checkpoint) -> Weights | str:
        """The whole state, or why it cannot be read."""
        name = checkpoint.name
        if name not in self.manifests or name in self.damaged:
            return "it is damaged"
        if checkpoint.sha256 and checkpoint.sha256 != self.sha(name):
            return "its manifest is another one"
        blocks: dict[int, int] = {}
        for file, sha in self.manifests[name].items():
            if file not in self.files[name] or hash(self.files[name][file]) != sha:
                return f"{file} is not the one in the manifest"
            first, content = self.files[name][file]
            blocks.update(enumerate(content, first))
        return tuple(blocks[index] for index in range(BLOCKS))

    def cut(self, kind: str, fields: dict[str, Any]) -> None:
        """Record a cut, which another command may have recorded, too."""
        self.events.append({"event": kind, **fields})
        self.lineage, self.roll_backs = lineage.recorded(self.events), rollback.recorded(self.events)
        self.rechecked = min(self.rechecked, fields["to"])
