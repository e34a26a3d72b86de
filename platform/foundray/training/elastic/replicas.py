"""Pieces of the state in a member's memory, and a whole state put together from those of a group."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from foundray.training.collectives.group import Group
from foundray.training.elastic.recovery import Source, StateShard
from foundray.training.step.blocks import BLOCK
from foundray.training.step.trainer import Trainer

STATES_KEPT = 3
"""Steps and groups whose pieces are kept: the newest may not be whole yet, and one may be a group's last."""


class Replicas:
    """The pieces that a member holds: its own, and those it mirrors."""

    def __init__(self, roll_back: int | None = None) -> None:
        self.roll_back = roll_back
        """The newest state whose step is a multiple of it is kept, too, for roll-backs."""
        self.lock = threading.Lock()
        self.held: dict[StateShard, dict[str, Tensor]] = {}
        self.own: StateShard | None = None

    def keep(self, piece: StateShard, tensors: dict[str, Tensor], own: bool = False) -> None:
        """Add a piece, and let go of the oldest states."""
        with self.lock:
            self.held[piece] = tensors
            if own:
                self.own = piece
            states = list(dict.fromkeys((p.generation, p.step) for p in self.held))  # in the order in which they came
            returned_to = [state for state in states if self.roll_back and state[1] % self.roll_back == 0][-1:]
            for old in [p for p in self.held if (p.generation, p.step) in states[:-STATES_KEPT]]:
                if (old.generation, old.step) not in returned_to:
                    del self.held[old]

    def drop_after(self, step: int) -> None:
        """Let go of all states after a step."""
        with self.lock:
            self.held = {piece: tensors for piece, tensors in self.held.items() if piece.step <= step}

    def pieces(self) -> list[StateShard]:
        with self.lock:
            return list(self.held)

    def get(self, piece: StateShard) -> dict[str, Tensor]:
        with self.lock:
            return self.held[piece]


def as_arrays(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """As NumPy arrays, which travel between actors without a copy more than needed."""
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def restore(trainer: Trainer, group: Group, source: Source, memory: Replicas) -> int:
    """Fill the trainer, which takes part in `group`, with the state that its members hold in pieces; gives its step.

    Each holder broadcasts its pieces in turn: everybody takes what all hold, and the optimizer's state of the blocks that it
    owns in this group.
    """
    mine, device = trainer.blocks, trainer.device
    shapes = trainer.optimizer.state
    state = {name: torch.zeros(len(mine) * width, dtype=dtype, device=device) for name, (dtype, width) in shapes.items()}
    for holder, piece in source.pieces:
        blocks = piece.stop - piece.start
        held = memory.get(piece) if holder == group.rank else None

        def received(name: str, dtype: torch.dtype, width: int, blocks=blocks, held=held, holder=holder) -> Tensor:
            empty = torch.empty(blocks * width, dtype=dtype, device=device)
            return group.broadcast(held[name].to(device) if held else empty, holder)

        for name, buffer in trainer.whole.items():
            trainer.flat.part(buffer, range(piece.start, piece.stop)).copy_(received(name, torch.float32, BLOCK))
        start, stop = max(mine.start, piece.start), min(mine.stop, piece.stop)
        for name, (dtype, width) in shapes.items():
            values = received(name, dtype, width)
            if start < stop:
                part = values[(start - piece.start) * width : (stop - piece.start) * width]
                state[name][(start - mine.start) * width : (stop - mine.start) * width] = part
    trainer.optimizer.load(state)
    return source.step
