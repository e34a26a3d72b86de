"""What a run of a system under a trace comes to."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Outcome:
    useful_s: float
    """Node-seconds of steps that count."""
    node_s: float
    """Node-seconds of all nodes that were there."""
    lost_s: dict[str, float] = field(default_factory=dict)
    """Node-seconds lost, by cause."""
    counts: dict[str, float] = field(default_factory=dict)

    @property
    def goodput(self) -> float:
        return self.useful_s / self.node_s
