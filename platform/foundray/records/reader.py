"""The only reader of logs: from a file, segments, or both; all records, or the new ones."""

from __future__ import annotations

from collections.abc import Iterator

from foundray.errors import InputError
from foundray.records.lines import Damage, Record, parsed
from foundray.records.segments import Segment, current
from foundray.storage import Store, reading

CHUNK_BYTES = 1 << 20
LISTINGS = 5
"""Times to list the segments: some may be merged between listing and reading."""


class Shorter(Exception):
    """A log has become shorter than what was read of it."""


class Reader:
    """Reads a log in order; each call reads the new records. An unfinished line is read once it is complete."""

    def __init__(self, folder: Store, log: str):
        """`log` is `events` or `metrics`, of the run in `folder`."""
        self.folder, self.file, self.segments = folder, f"{log}.jsonl", log
        self.offsets: dict[str, tuple[int, int]] = {}
        """(bytes, lines) read so far, by file name."""
        self.damage: list[Damage] = []
        """Damaged lines, which were left out."""

    def new(self) -> Iterator[Record]:
        """Yield the records since the last call. Raises InputError if it cannot be read, Shorter if records are gone."""
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
            yield from self._tail(self.folder / self.file, self.offsets.get(self.file, (0, 0)))
        except InputError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            if self.offsets.get(self.file):
                raise Shorter from None

    def _segments(self) -> Iterator[Record]:
        place = self.folder / self.segments
        sizes = {segment: size for name, size in place.files().items() if (segment := Segment.named(name))}
        known = [segment for name in self.offsets if (segment := Segment.named(name))]
        for segment in current(sizes):
            replaced = [one for one in known if one == segment or segment.holds(one)]
            counts = [self.offsets[one.name] for one in replaced]
            start = (sum(count for count, _ in counts), sum(lines for _, lines in counts))
            if sizes[segment] < start[0]:
                raise Shorter
            for one in replaced:  # before reading, which may fail: otherwise they would count twice
                del self.offsets[one.name]
            self.offsets[segment.name] = start
            if sizes[segment] > start[0]:
                yield from self._tail(place / segment.name, start)

    def _tail(self, file: Store, start: tuple[int, int]) -> Iterator[Record]:
        """Yield the records after the bytes and lines already read."""
        (count, lines), name = start, file.name
        with reading(file), file.filesystem.open_input_file(file.path) as stream:
            if (size := stream.size()) < count:
                raise Shorter
            stream.seek(count)
            self.offsets[name] = start
            rest, at = b"", count
            while at < size and (content := stream.read(min(CHUNK_BYTES, size - at))):
                at += len(content)
                *whole, rest = (rest + content).split(b"\n")
                for line in whole:
                    count, lines = count + len(line) + 1, lines + 1
                    self.offsets[name] = count, lines
                    if (record := self._record(file, lines, line)) is not None:
                        yield record
            if rest and not file.is_local and name != self.file:  # segments are immutable: nobody will finish it
                self.offsets[name] = count + len(rest), lines + 1
                if (record := self._record(file, lines + 1, rest)) is not None:
                    yield record

    def _record(self, file: Store, number: int, line: bytes) -> Record | None:
        """Parse a line; None for damage, which is noted."""
        try:
            return parsed(line, self.segments)
        except ValueError as error:
            self.damage.append(Damage(file.url, number, str(error)))
            return None
