"""A slot: resources that Ray Train reserved for one worker. Nothing here needs Ray."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    node: str
    """Ray's id of the node."""
    gpus: tuple[str, ...]
    pool: str
    """Name of its pool."""
