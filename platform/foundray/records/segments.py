"""Segments: the immutable objects that form a log on storage that cannot append.

A segment's name says its position: `00000064-00000127-3f2a9c01d4e5.jsonl` holds what the writer 3f2a9c01d4e5 wrote as
numbers 64 to 127. Each writer has its own id, and its numbers follow all that it has found, so two writers never write to one
object. A segment that covers the numbers of others of the same writer replaces them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_NAME = re.compile(r"(\d+)-(\d+)-(\w+)\.jsonl")


@dataclass(frozen=True, order=True)
class Segment:
    first: int
    last: int
    writer: str

    @staticmethod
    def named(name: str) -> Segment | None:
        """Parse a name; None if it is not a segment's."""
        found = _NAME.fullmatch(name)
        return Segment(int(found[1]), int(found[2]), found[3]) if found else None

    @property
    def name(self) -> str:
        return f"{self.first:08d}-{self.last:08d}-{self.writer}.jsonl"

    def holds(self, other: Segment) -> bool:
        """Whether this segment replaces another one."""
        within = self.first <= other.first and other.last <= self.last
        return within and self.writer == other.writer and self != other


def current(segments: Iterable[Segment]) -> list[Segment]:
    """Sort segments, without those that others have replaced."""
    kept: dict[str, Segment] = {}
    found = []
    for segment in sorted(segments, key=lambda one: (one.first, -one.last)):
        before = kept.get(segment.writer)
        if before is None or not before.holds(segment):
            kept[segment.writer] = segment
            found.append(segment)
    return sorted(found)


def blocks(segments: Iterable[Segment], size: int, below: int) -> list[list[Segment]]:
    """Groups of segments to merge: of one writer, in one block of `size` numbers that ends below `below`."""
    groups: dict[tuple[str, int], list[Segment]] = {}
    for segment in sorted(segments):
        block = segment.first // size
        if segment.last // size == block < below // size:
            groups.setdefault((segment.writer, block), []).append(segment)
    return [group for group in groups.values() if len(group) > 1]
