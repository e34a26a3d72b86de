"""`embed`: a run's vectors of raw data, as one resumable Ray Data job on any number of workers."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from foundray.admission import admit_places
from foundray.cluster import connected, node_resources, room
from foundray.data.reader import Reader
from foundray.errors import FoundrayError, InputError
from foundray.holder import Holder
from foundray.run import Run
from foundray.spec import Source
from foundray.storage import Store
from foundray.training.checkpoint import completed_steps
from foundray.vectors.blocks import Part, Record, parts, read_blocks, too_many
from foundray.vectors.kinds import source_of
from foundray.vectors.recipe import BAD_ROWS, COMPLETE, INDEX, RECIPE, Complete, Recipe

READERS = 4
"""Parts that are read at once, at most: reading is quick beside computing, and reserves no CPU."""
REPORT_SECONDS = 2.0

Report = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What is made of the data, and on what."""

    layer: Any = "last"
    """`last` (after the final norm), `all` of them side by side, or so many layers deep."""
    pool: Any = "mean"
    """How a row's hidden states become its vector."""
    normalise: bool = False
    """Whether vectors are scaled to length one: a search then compares by cosine."""
    workers: int | None = None
    """At most so many (default: what fits)."""
    resources: Mapping[str, float] | None = None
    """What Ray reserves for each worker, such as `{"GPU": 1}` (default: what the run's workers had)."""
    max_bad_rows: int | None = None
    """Rows that cannot be used before the command stops (default: the run's `data.max_bad_rows`)."""


@dataclass(frozen=True)
class Embedded:
    """What was made, for programs."""

    out: str
    run: str
    step: int
    weights_sha256: str
    rows: int
    bad_rows: int
    blocks: int
    width: int
    """Numbers of a vector."""
    metric: str
    """What a search compares by: `cosine` or `distance`."""
    exact: bool
    """Whether a search looks at every vector."""
    new_rows: int
    """Made by this command; the others were there."""
    seconds: float
    """In which this command made them: without the start of Ray and of workers, and without the index."""
    workers: int

    @property
    def rows_per_s(self) -> float:
        return self.new_rows / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "rows_per_s": round(self.rows_per_s, 1)}


def embed(
    run: Run, data: str, out: str, overrides: Mapping[str, Any], options: Options, report: Report = lambda line: None
) -> Embedded:
    """The vectors of `data` in the folder `out`: found complete, gone on with, or made. Connects to Ray unless complete.

    `overrides` are fields of the source that `data` is. Raises InputError.
    """
    spec, folder, began = run.spec(), Store.at(out), Recipe.of(Store.at(out))
    source = source_of(data, spec, overrides)
    reader = Reader(run)
    files = reader.files(source)
    limit = spec.data.max_bad_rows if options.max_bad_rows is None else options.max_bad_rows
    if not completed_steps(run.checkpoints):
        raise InputError(f"{run.folder} holds no complete checkpoint yet: there are no weights to embed with")
    resources = dict(options.resources or next(iter(spec.scale.all_pools.values())).resources)
    from foundray.vectors.task import prepared  # imports torch: not before what a person may have got wrong is known

    task, weights, recipe = prepared(run, reader, source, files, options, resources, began)
    if began:
        began.check_same(folder, recipe)
    todo = parts(files)
    if began and (complete := Complete.of(folder)) and (folder / INDEX).exists():
        report(f"embed: {complete.rows:,} rows, embedded before in {folder}")
        return _embedded(folder, recipe, complete, 0, 0.0, 0)
    folder.check_writable()
    with connected() as ray, Holder(folder, report, "the embedding"):
        admit_places(ray, folder.url, {data: files}, report)
        if not began:
            (folder / RECIPE).write_text(recipe.model_dump_json(indent=1))
        fits = room(resources, node_resources(ray))
        workers = _workers(fits, options.workers, resources, report)
        job = Job(folder, todo, reader, source, limit, report)
        made, seconds = job.run(ray, task, weights, workers, resources)
    complete = finish(folder, todo, recipe, limit, report)
    return _embedded(folder, recipe, complete, made, seconds, workers)


@dataclass
class Job:
    """The blocks that are to be made, and what was made of them."""

    folder: Store
    parts: list[Part]
    reader: Reader
    source: Source
    limit: int
    report: Report

    def run(self, ray: Any, task: Any, weights: bytes, workers: int, resources: Mapping[str, float]) -> tuple[int, float]:
        """Make what is not there; gives how many rows that was, and the seconds that it took. Raises InputError."""
        self.done = {place.name.removesuffix(".parquet") for place in (self.folder / "shards").children()}
        self.done = {name for name in self.done if not name.endswith(".tmp")}
        self.known: dict[str, Record] = {}
        todo = [part for part in self.parts if not self._is_done(part)]
        if self.done:
            self.report(f"embed: going on in {self.folder}, where {len(self.done):,} blocks are done")
        rows, begun, told, seen = 0, time.monotonic(), time.monotonic(), set[str]()
        first = 0
        for result in self._results(ray, todo, task, weights, workers, resources) if todo else ():
            if result["error"]:
                raise InputError(result["error"])
            if not rows:  # by then, workers have started
                first, begun = result["rows"], time.monotonic()
            rows += result["rows"]
            self.done.add(result["block"])
            seen.add(result["worker"])
            if len(seen) > workers:
                self.report("embed: a worker was lost; another does its blocks")
                seen = {result["worker"]}
            if time.monotonic() - told > REPORT_SECONDS:
                told = time.monotonic()
                self._progress(rows, (rows - first) / max(told - begun, 1e-9))
        return rows, time.monotonic() - begun

    def _results(
        self, ray: Any, todo: list[Part], task: Any, weights: bytes, workers: int, resources: Mapping[str, float]
    ) -> Iterator[dict[str, Any]]:
        """Of each block that is not done, as it is made; an error inside a task comes as a row."""
        import ray.data as ray_data

        from foundray.vectors.worker import Worker

        # Its progress bars and plans would interleave with what `report` says; errors still come through.
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray_data.DataContext.get_current()
        before = context.enable_progress_bars, context.target_max_block_size
        context.enable_progress_bars, context.target_max_block_size = False, 1  # a row, which is a block of ours, at a time
        try:
            part_rows = ray_data.from_items([{"part": index} for index in range(len(todo))], override_num_blocks=len(todo))
            reading = read_guarded(todo, self.reader, self.source, frozenset(self.done), self.limit, self.folder.url)
            others = {name: amount for name, amount in resources.items() if name not in ("CPU", "GPU")}
            yield from (
                part_rows.flat_map(reading, num_cpus=0, concurrency=min(READERS, len(todo)))
                .map(
                    Worker,
                    fn_constructor_args=[task, [ray.put(weights)], self.folder.url],
                    compute=ray_data.ActorPoolStrategy(size=workers),
                    num_cpus=resources.get("CPU", 0),
                    num_gpus=resources.get("GPU", 0),
                    **({"resources": others} if others else {}),
                )
                .iter_rows()
            )
        finally:
            context.enable_progress_bars, context.target_max_block_size = before

    def _is_done(self, part: Part) -> bool:
        record = self._record(part)
        return record is not None and self.done.issuperset(record.names(part))

    def _record(self, part: Part) -> Record | None:
        """Of a part that has been read to its end."""
        if part.name not in self.known and (record := Record.read(self.folder, part)):
            self.known[part.name] = record
        return self.known.get(part.name)

    def _progress(self, rows: int, speed: float) -> None:
        records = [self._record(part) for part in self.parts]
        known = [record for record in records if record]
        if (bad := sum(len(record.bad) for record in known)) > self.limit:
            raise InputError(too_many(self.limit, f"{self.folder / 'parts'} lists them"))
        whole = f" of {sum(record.blocks for record in known):,}" if len(known) == len(records) else ""
        quarantined = f", {bad:,} rows not usable" if bad else ""
        self.report(f"embed: {len(self.done):,}{whole} blocks, {rows:,} rows, {speed:,.0f} rows/s{quarantined}")


def read_guarded(
    todo: list[Part], reader: Reader, source: Source, done: frozenset[str], limit: int, folder: str
) -> Callable[[dict[str, Any]], Iterator[dict[str, Any]]]:
    """A part's blocks, or the one row that says what is wrong."""

    def read(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        try:
            for block in read_blocks(todo[row["part"]], reader, source, done, limit, folder):
                yield {**block, "error": ""}
        except FoundrayError as error:
            yield {"block": "", "batches": [b""], "order": [0], "table": b"", "error": str(error)}

    return read


def finish(folder: Store, todo: list[Part], recipe: Recipe, limit: int, report: Report) -> Complete:
    """Build the index, and say that all is made. Raises InputError where there is nothing, or too much is bad."""
    from foundray.vectors.index import Index, Metric

    records = [(part, record) for part in todo if (record := Record.read(folder, part))]
    names = [name for part, record in records for name in record.names(part)]
    bad = sum(len(record.bad) for _, record in records)
    if not names:
        first = next((record.bad[0] for _, record in records if record.bad), None)
        why = f"no usable row ({first['source']}, {first['position']}: {first['reason']})" if first else "no row"
        raise InputError(f"{recipe.source.path} is empty: {why}")
    if bad > limit:
        raise InputError(too_many(limit, f"{folder / 'parts'} lists them"))
    lines = [json.dumps(row) + "\n" for _, record in records for row in record.bad]
    (folder / BAD_ROWS).write_text("".join(lines))
    vectors = [vectors_of(folder, name) for name in names]
    metric: Metric = "cosine" if recipe.normalise else "distance"
    index = Index.build(np.concatenate(vectors), metric)
    complete = Complete(
        rows=sum(map(len, vectors)),
        bad_rows=bad,
        shards=[(name, len(some)) for name, some in zip(names, vectors, strict=True)],
        metric=metric,
        cells=index.cells,
        index_sha256=index.save(folder / INDEX),
    )
    (folder / COMPLETE).write_text(complete.model_dump_json(indent=1))
    how = "exact: every vector is looked at" if index.cells == 1 else f"about: {index.probed} of {index.cells:,} cells are"
    report(f"embed: index of {complete.rows:,} vectors by {metric}, {how}")
    return complete


def vectors_of(folder: Store, name: str) -> np.ndarray:
    """[rows, width] of a block. Raises InputError where its file cannot be read."""
    column = table_of(folder, name, ["vector"]).column("vector").combine_chunks()
    flat = column.flatten().to_numpy()
    return flat.reshape(len(column), -1)


def table_of(folder: Store, name: str, columns: list[str] | None = None) -> Any:
    """A block's rows. Raises InputError where its file cannot be read."""
    import pyarrow as pa

    file = folder / f"shards/{name}.parquet"
    try:
        return pq.read_table(pa.BufferReader(file.read_bytes()), columns=columns)
    except pa.ArrowException as error:
        raise InputError(f"{file} is damaged: {error}; delete it, and the same `foundray embed` makes it anew") from None


def _workers(fits: int, asked: int | None, resources: Mapping[str, float], report: Report) -> int:
    each = ", ".join(f"{amount:g} {kind}" for kind, amount in resources.items())
    if not fits:
        raise InputError(f"no node has {each} for a worker: ask for less, such as --resources CPU=1")
    if asked and asked > fits:
        report(f"workers: {fits} of {asked} (that is what fits, {each} a worker)")
    return min(asked or fits, fits)


def _embedded(folder: Store, recipe: Recipe, complete: Complete, made: int, seconds: float, workers: int) -> Embedded:
    return Embedded(
        out=folder.url, run=recipe.run, step=recipe.step, weights_sha256=recipe.weights_sha256, rows=complete.rows,
        bad_rows=complete.bad_rows, blocks=len(complete.shards), width=recipe.width, metric=complete.metric,
        exact=complete.cells == 1, new_rows=made, seconds=round(seconds, 3), workers=workers,
    )  # fmt: skip
