"""A checkpoint that a group cannot use. Nothing here needs torch."""

from __future__ import annotations

from foundray.runs.checkpoints import Checkpoint


class Unusable(Exception):
    """A checkpoint that some worker of a group cannot read, or finds damaged."""

    def __init__(self, checkpoint: Checkpoint, reason: str, away: bool):
        """`away`: storage does not answer, so that a later attempt may succeed."""
        super().__init__(reason)
        self.checkpoint, self.away = checkpoint, away
