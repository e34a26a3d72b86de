"""Makes the blocks of a folder of vectors by Ray Data: tasks read; actors with the network compute and write."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from foundray.cluster.causes import cause_of
from foundray.data.prepare.limits import Limits
from foundray.data.prepare.quarantine import amount
from foundray.data.prepare.reader import Reader
from foundray.errors import InputError, RunFailed
from foundray.spec import SourceConfig
from foundray.storage import Store
from foundray.vectors.blocks import Part, Record, check_all, read_blocks, tally_of

if TYPE_CHECKING:
    from foundray.vectors.worker import Task

READERS = 4
"""Most parts read at once: reading is fast compared with computing, and reserves no CPU."""
READ_TASKS = 1000
"""Most read tasks: planning a task costs milliseconds."""
REPORT_SECONDS = 2.0

Report = Callable[[str], None]


ACTOR_LINE = b" has constructor arguments in the object store and max_restarts > 0"
"""Ray's core prints this on standard error for each actor that Ray Data starts, with no switch to turn it off."""


@dataclass
class Job:
    """Tracks which blocks are done, and makes the others."""

    folder: Store
    parts: list[Part]
    reader: Reader
    source: SourceConfig
    limits: Limits
    """Bad rows allowed before the job stops."""
    report: Report
    rows: int = 0
    """Rows embedded by this job."""
    rows_per_s: float = 0.0
    """Rows per second from the first block to the last, without the start of the workers."""
    done: set[str] = field(default_factory=set)
    known: dict[str, Record] = field(default_factory=dict)
    """Records of parts that were read to their end, by name."""

    def todo(self) -> list[Part]:
        """Find the parts that are not done, from the folder."""
        names = [file.name for file in (self.folder / "shards").children()]
        self.done = {name.removesuffix(".parquet") for name in names if name.endswith(".parquet")}
        return [part for part in self.parts if not self._is_done(part)]

    def run(self, ray: Any, todo: list[Part], task: Task, weights: bytes, workers: int, resources: Mapping[str, float]) -> None:
        """Make the missing blocks of these parts with `weights` (safetensors). Raises InputError or RunFailed."""
        if self.done:
            self.report(f"embed: continuing in {self.folder}, where {len(self.done):,} blocks are done")
        first, began, last_report = 0, 0.0, time.monotonic()
        seen: set[str] = set()
        try:
            for result in self._results(ray, todo, task, weights, workers, resources):
                if result["error"]:
                    raise InputError(result["error"])
                now = time.monotonic()
                self.done.add(result["block"])
                self.rows += result["rows"]
                # Measure from the first block on, when the workers have started.
                if began:
                    self.rows_per_s = (self.rows - first) / (now - began)
                else:
                    first, began = self.rows, now
                seen.add(result["worker"])
                if len(seen) > workers:
                    self.report("embed: a worker was lost; another one repeats its block")
                    seen = {result["worker"]}
                if now - last_report > REPORT_SECONDS and self.rows_per_s:
                    last_report = now
                    self._report_progress()
        except ray.exceptions.RayError as error:
            raise RunFailed(f"embedding broke off: {cause_of(error)}; the same `foundray embed` continues") from error

    def _results(
        self, ray: Any, todo: list[Part], task: Task, weights: bytes, workers: int, resources: Mapping[str, float]
    ) -> Iterator[dict[str, Any]]:
        """Yield the result of each block as it is made; an error inside a task is a row, too."""
        from ray.data import ActorPoolStrategy, from_items

        from foundray.vectors.worker import Worker

        others = {name: amount for name, amount in resources.items() if name not in ("CPU", "GPU")}
        reserved = {"num_cpus": resources.get("CPU", 0), "num_gpus": resources.get("GPU", 0), "resources": others or None}
        with _row_by_row():
            numbers = from_items(list(range(len(todo))), override_num_blocks=min(len(todo), READ_TASKS))
            blocks = numbers.flat_map(self._read(todo, task.device), num_cpus=0, concurrency=min(READERS, len(todo)))
            made = blocks.map(
                Worker,
                fn_constructor_args=[task, [ray.put(weights)], self.folder.url],
                compute=ActorPoolStrategy(size=workers),
                **reserved,
            )
            rows = iter(made.iter_rows())
            with _without(ACTOR_LINE):  # until the actors have started
                first = next(rows, None)
            if first:
                yield first
            yield from rows

    def _read(self, todo: list[Part], device: str) -> Callable[[dict[str, Any]], Iterator[dict[str, Any]]]:
        """The function of a read task: maps a part's number to its blocks, or to one row with an error."""
        reader, source, done, limits, folder = self.reader, self.source, frozenset(self.done), self.limits, self.folder.url

        def read(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
            try:
                for block in read_blocks(todo[row["item"]], reader, source, done, limits, folder, device):
                    yield {**block, "error": ""}
            except InputError as error:
                yield {"block": "", "batches": [b""], "order": [0], "table": b"", "error": str(error)}

        return read

    def _is_done(self, part: Part) -> bool:
        record = self._record(part)
        return record is not None and self.done.issuperset(record.names(part))

    def _record(self, part: Part) -> Record | None:
        if part.name not in self.known and (record := Record.read(self.folder, part)):
            self.known[part.name] = record
        return self.known.get(part.name)

    def _report_progress(self) -> None:
        """Report progress. Raises InputError if too many rows are unusable."""
        records = [record for part in self.parts if (record := self._record(part))]
        all_read = len(records) == len(self.parts)
        check_all(records, all_read, self.limits, self.source, self.folder)
        whole = f" of {sum(record.blocks for record in records):,}" if all_read else ""
        bad = tally_of(records).balance.lost
        unusable = f", {amount(bad)} not usable" if bad else ""
        self.report(f"embed: {len(self.done):,}{whole} blocks, {self.rows:,} rows, {self.rows_per_s:,.0f} rows/s{unusable}")


@contextmanager
def _row_by_row() -> Iterator[None]:
    """Make Ray Data pass on each row at once, and log nothing: our own error names the cause."""
    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    before = context.enable_progress_bars, context.target_max_block_size, context.execution_no_progress_timeout_s
    context.enable_progress_bars, context.target_max_block_size, context.execution_no_progress_timeout_s = False, 1, -1
    try:
        yield
    finally:
        context.enable_progress_bars, context.target_max_block_size, context.execution_no_progress_timeout_s = before


@contextmanager
def _without(text: bytes) -> Iterator[None]:
    """Drop lines that contain `text` from standard error inside the block."""
    original, (readable, writable) = os.dup(2), os.pipe()
    os.dup2(writable, 2)
    os.close(writable)

    def filter_lines() -> None:
        with os.fdopen(readable, "rb") as lines:
            for line in lines:
                if text not in line:
                    with suppress(OSError):  # standard error may be gone
                        os.write(original, line)
        os.close(original)

    thread = threading.Thread(target=filter_lines, daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.dup2(original, 2)  # closes the pipe's last writer, so the thread reads to the end
        thread.join(1)
