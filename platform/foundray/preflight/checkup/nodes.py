"""A node, a link between two nodes, and a finding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Node:
    """A node as Ray sees it and, once visited, as it is. Sizes in bytes."""

    id: str
    address: str
    host: str = ""
    cpus: float = 0
    gpus: float = 0
    memory: float = 0
    object_store: float = 0
    accelerator: str | None = None
    """Ray's name for its kind."""
    labels: dict[str, str] = field(default_factory=dict)
    in_use: dict[str, float] = field(default_factory=dict)
    """CPUs and GPUs in use."""
    here: bool = False
    """Whether the driver is on it."""
    silence: str | None = None
    """Why it does not answer."""
    facts: dict[str, Any] | None = None
    """`probe.Probe.facts`."""
    skew: tuple[float, float] | None = None
    """Seconds by which its clock is ahead of the driver's, and the error of that."""
    storage: tuple[str, str] | None = None
    """Result of the exchange of files on storage, and its reason (`probe.Probe.exchange`)."""
    missing: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By source: number of files that are missing or wrong, and what is wrong with the first."""
    products: dict[str, Any] = field(default_factory=dict)
    """Result of `product.py`."""

    @property
    def works(self) -> bool:
        """Whether any part of a run may be placed there."""
        return self.here or self.cpus > 0 or self.gpus > 0

    def __str__(self) -> str:
        return f"{self.address} ({self.host})" if self.host and self.host != self.address else self.address


@dataclass(frozen=True)
class Link:
    """A raw TCP stream from one node to another."""

    source: Node
    target: Node
    latency: float = 0
    """Round trip in seconds."""
    bandwidth: float = 0
    """Bytes per second."""
    problem: str | None = None


@dataclass(frozen=True)
class Finding:
    stops: bool
    """Whether a run cannot work, or cannot be trusted, until this is mended; otherwise it is a warning."""
    sentence: str


def named(nodes: Sequence[Node], most: int = 4) -> str:
    """`node A`, `nodes A and B`, `nodes A, B, C, D and 3 more`."""
    names = [str(node) for node in nodes[:most]]
    if len(nodes) > most:
        names.append(f"{len(nodes) - most} more")
    return f"node{'s' * (len(nodes) > 1)} " + " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
