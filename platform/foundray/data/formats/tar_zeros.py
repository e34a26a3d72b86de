"""What can be missing in a tar archive, and what its zero bytes say: they end an archive, or overwrote members."""

from __future__ import annotations

from dataclasses import dataclass

from foundray.contract import Unreadable
from foundray.data.formats.tar_headers import BLOCK, missing_between

END = 2 * BLOCK
"""Zero bytes that end an archive. Most writers add more to fill the last record."""
RECORD_SIZES = [BLOCK * factor for factor in (20, 64, 128, 256, 512, 1024, 2048)]
"""Bytes per record: tar's default blocking factor, and larger ones."""


class Missing(Unreadable):
    """A part of an archive that cannot be read."""

    def __init__(self, reason: str, position: str, lost: int = 1, unit: str = "member"):
        super().__init__(reason, lost, unit)
        self.position = position
        """The member's name, or its position in the archive."""


def fills_record(zeros: int, size: int, records: list[int] = RECORD_SIZES) -> bool:
    """Whether the zero bytes at the end of `size` bytes of archive fill its last record."""
    return any(size % record == 0 and END <= zeros < END + record for record in records)


@dataclass
class ZeroRun:
    """Zero bytes between members: overwritten members, or the end of an archive that another one follows."""

    start: int
    size: int
    before: list[str]
    after: str
    padded: bool
    """Whether they fill a record, as most archives' ends do."""

    def missing(self, pads: bool | None) -> Missing | None:
        """The members that may be missing here; None if none are. `pads`: whether the archive's own end is padded, if known."""
        count = missing_between(self.before, self.after)
        if count or (count is None and pads is not None and pads != self.padded):
            return self.loss()
        if count == 0:
            return None
        end = f"bytes {self.start:,} to {self.start + self.size:,} are zero, {self._between()}"
        reason = f"{end}: they are read as the end of an archive, and the next one is read, too; or members are missing there"
        return Missing(reason, f"byte {self.start}", 0)

    def loss(self) -> Missing:
        """A Missing for the number of members that their numbered names show; otherwise for at least one."""
        count = missing_between(self.before, self.after) or 0
        count = min(count, self.size // BLOCK)  # each has a header
        lost = "at least one member is" if not count else "one member is" if count == 1 else f"{count:,} members are"
        return Missing(f"{self.size:,} zero bytes stand {self._between()}: {lost} missing", f"byte {self.start}", max(1, count))

    def _between(self) -> str:
        return f"between {self.before[-1]} and {self.after}" if self.before else f"before {self.after}"
