"""The one reader of a log: a file, segments, or both; all of it, or what is new."""

from __future__ import annotations

from collections.abc import Iterator

from foundray.errors import InputError
from foundray.records.lines import Damage, Record, parsed
from foundray.records.segments import Segment, current
from foundray.storage import Store, reading

CHUNK_BYTES = 1 << 20
LISTINGS = 5
"""Times that the segments are listed again, since some were merged between the listing and the reading."""


class Shorter(Exception):
    """A log has lost some of what was read of it."""


class Reader:
    """A log in order, a call at a time; a line that a writer has not finished is read when it is."""

    def __init__(self, folder: Store, log: str):
        """`log` is `events` or `metrics`, of the run in `folder`."""
        self.folder, self.file, self.segments = folder, f"{log}.jsonl", log
        self.taken: dict[str, tuple[int, int]] = {}
        """(bytes, lines) read of each file, by name."""
        self.damage: list[Damage] = []
        """Lines that are no records, and were left out."""

    def new(self) -> Iterator[Record]:
        """What was recorded since the last call. Raises InputError where it cannot be read, Shorter where it was before."""
        yield from self._file()
        for _ in range(LISTINGS):
            try:
                yield from self._segments()
                return
            except InputError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
                problem = error
        raise problem

    def _file(self) -> Iterator[Record]:
        try:
            yield from self._tail(self.folder / self.file, self.taken.get(self.file, (0, 0)))
        except InputError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            if self.taken.get(self.file):
                raise Shorter from None

    def _segments(self) -> Iterator[Record]:
        place = self.folder / self.segments
        sizes = {segment: size for name, size in place.files().items() if (segment := Segment.named(name))}
        known = [segment for name in self.taken if (segment := Segment.named(name))]
        for segment in current(sizes):
            replaced = [one for one in known if one == segment or segment.holds(one)]
            counts = [self.taken[one.name] for one in replaced]
            start = (sum(count for count, _ in counts), sum(lines for _, lines in counts))
            if sizes[segment] < start[0]:
                raise Shorter
            for one in replaced:  # before the reading, which may fail: what was read would count twice
                del self.taken[one.name]
            self.taken[segment.name] = start
            if sizes[segment] > start[0]:
                yield from self._tail(place / segment.name, start)

    def _tail(self, file: Store, start: tuple[int, int]) -> Iterator[Record]:
        """The records after the bytes and lines that were read."""
        (count, lines), name = start, file.name
        with reading(file), file.filesystem.open_input_file(file.path) as stream:
            if (size := stream.size()) < count:
                raise Shorter
            stream.seek(count)
            self.taken[name] = start
            rest, at = b"", count
            while at < size and (content := stream.read(min(CHUNK_BYTES, size - at))):
                at += len(content)
                *whole, rest = (rest + content).split(b"\n")
                for line in whole:
                    count, lines = count + len(line) + 1, lines + 1
                    self.taken[name] = count, lines
                    if (record := self._record(file, lines, line)) is not None:
                        yield record
            if rest and not file.is_local and name != self.file:  # nobody will finish a segment
                self.taken[name] = count + len(rest), lines + 1
                if (record := self._record(file, lines + 1, rest)) is not None:
                    yield record

    def _record(self, file: Store, number: int, line: bytes) -> Record | None:
        """None for damage, which is noted."""
        try:
            return parsed(line, self.segments)
        except ValueError as error:
            self.damage.append(Damage(file.url, number, str(error)))
            return None
