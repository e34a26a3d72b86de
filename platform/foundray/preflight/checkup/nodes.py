"""What is known of a node, of a link between two, and what is to be mended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Node:
    """A node as Ray counts it, and, once it was visited, as it is. Sizes in bytes."""

    id: str
    address: str
    host: str = ""
    cpus: float = 0
    gpus: float = 0
    memory: float = 0
    object_store: float = 0
    accelerator: str | None = None
    """Ray's name of its kind."""
    labels: dict[str, str] = field(default_factory=dict)
    in_use: dict[str, float] = field(default_factory=dict)
    """CPUs and GPUs that somebody holds."""
    here: bool = False
    """Whether the driver is on it."""
    silence: str | None = None
    """Why there is no answer from it."""
    facts: dict[str, Any] | None = None
    """`probe.Probe.facts`."""
    skew: tuple[float, float] | None = None
    """Seconds that its clock is ahead of the driver's, and how far that may be off."""
    storage: tuple[str, str] | None = None
    """What became of the exchange of files on storage, and why (`probe.Probe.exchange`)."""
    missing: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By source: how many of the files asked for are not there as they should be, and what is wrong with the first."""
    products: dict[str, Any] = field(default_factory=dict)
    """What `product.py` found."""

    @property
    def works(self) -> bool:
        """Whether anything of a run may be placed there."""
        return self.here or self.cpus > 0 or self.gpus > 0

    def __str__(self) -> str:
        return f"{self.address} ({self.host})" if self.host and self.host != self.address else self.address


@dataclass(frozen=True)
class Link:
    """A raw TCP stream from one node to another."""

    source: Node
    target: Node
    latency: float = 0
    """Seconds, there and back."""
    bandwidth: float = 0
    """Bytes a second."""
    problem: str | None = None


@dataclass(frozen=True)
class Finding:
    stops: bool
    """Whether a run cannot work, or not be trusted, before this is mended; else it is a warning."""
    sentence: str


def named(nodes: Sequence[Node], most: int = 4) -> str:
    """`node A`, `nodes A and B`, `nodes A, B, C, D and 3 more`."""
    names = [str(node) for node in nodes[:most]]
    if len(nodes) > most:
        names.append(f"{len(nodes) - most} more")
    return f"node{'s' * (len(nodes) > 1)} " + " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
