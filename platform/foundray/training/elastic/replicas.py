"""The state shards that a worker holds: its own, and the replicas of others. Nothing here needs torch."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

from foundray.runs.lineage import Lineage, usable
from foundray.training.protocol.states import StateShard

STATES_KEPT = 3
"""(generation, step) pairs whose shards are kept: the newest may be incomplete, and one may be a group's last."""

Content = TypeVar("Content")
"""What a shard holds: tensors by name."""


class Replicas(Generic[Content]):
    def __init__(self, roll_back: int | None = None) -> None:
        self.roll_back = roll_back
        """The newest state whose step is a multiple of this is kept as well, for roll-backs."""
        self.lock = threading.Lock()
        self.held: dict[StateShard, Content] = {}
        self.own: StateShard | None = None
        self.whole_state: tuple[int, int] | None = None
        """(generation, step) of the last state known to be whole in two memories."""
        self.source: tuple[int, int] | None = None
        """(generation, step) of the state from which a group was ordered to start since. Groups that break while they join
        leave incomplete states, which must not push these two out.
        """

    def keep(self, shard: StateShard, content: Content, own: bool = False) -> None:
        """Add a shard, and drop the oldest states."""
        with self.lock:
            self.held[shard] = content
            if own:
                self.own = shard
            # In order of arrival; beyond the newest, pinned ones and the state to roll back to are kept.
            states = list(dict.fromkeys((shard.generation, shard.step) for shard in self.held))
            roll_back_states = [state for state in states if self.roll_back and state[1] % self.roll_back == 0][-1:]
            kept = {*states[-STATES_KEPT:], *roll_back_states, self.whole_state, self.source}
            self.held = {shard: content for shard, content in self.held.items() if (shard.generation, shard.step) in kept}

    def start_from(self, state: tuple[int, int] | None, lineage: Lineage) -> None:
        """Take an order to start from a state, by generation and step, under these cuts; None if it is in storage.

        States that the cuts have undone are dropped.
        """
        with self.lock:
            self.source = state
            self.held = {s: content for s, content in self.held.items() if usable(s.step, s.made_under, lineage)}

    def whole(self, state: tuple[int, int] | None) -> None:
        """Note that each part of a state is in two memories of the group; None if it is in a lone worker's."""
        with self.lock:
            self.whole_state, self.source = state, None

    def shards(self) -> list[StateShard]:
        with self.lock:
            return list(self.held)

    def get(self, shard: StateShard) -> Content:
        with self.lock:
            return self.held[shard]
