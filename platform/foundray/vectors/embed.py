"""`embed`: computes a run's vectors of raw data, in one resumable Ray Data job on any number of workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from foundray.cluster.connect import connected, node_resources, room
from foundray.data.prepare.limits import Limits
from foundray.data.prepare.reader import Reader
from foundray.errors import InputError
from foundray.preflight.admission import admit_storage
from foundray.runs.lock import RunLock
from foundray.runs.run import Run
from foundray.storage import Store
from foundray.vectors.blocks import LISTS, parts
from foundray.vectors.job import Job
from foundray.vectors.kinds import source_of
from foundray.vectors.recipe import INDEX, RECIPE, Complete, Recipe
from foundray.vectors.shards import finish
from foundray.wording.sentences import plain
from foundray.wording.shown import Shown
from foundray.wording.words import plural

Report = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """Options of an embedding."""

    layer: Any = "last"
    """`last` (after the final norm), `all` side by side, or a number of layers deep."""
    pool: Any = "mean"
    """How a row's hidden states become its vector."""
    normalise: bool = False
    """Whether to scale vectors to length one; a search then compares by cosine."""
    workers: int | None = None
    """Maximum number of workers (default: as many as fit)."""
    resources: Mapping[str, float] | None = None
    """Resources that Ray reserves per worker, such as `{"GPU": 1}` (default: those of the run's workers)."""
    max_bad_rows: int | None = None
    """Unusable rows before the command stops (default: the run's `data.max_bad_rows`)."""
    max_bad_share: float | None = None
    """Fraction of unusable rows before the command stops (default: the run's `data.max_bad_share`)."""

    def __post_init__(self) -> None:
        """Raises InputError for values that are invalid for any run."""
        if self.layer not in ("last", "all") and not (isinstance(self.layer, int) and self.layer >= 0):
            raise InputError(f"--layer {self.layer}: it must be last, all, or a number of layers")
        for name, value, least in (("workers", self.workers, 1), ("max-bad-rows", self.max_bad_rows, 0)):
            if value is not None and value < least:
                raise InputError(f"--{name} {value}: it must be {least} or more")
        if self.max_bad_share is not None and not 0 <= self.max_bad_share <= 1:
            raise InputError(f"--max-bad-share {self.max_bad_share:g}: it must be from 0 to 1")
        if self.resources and not min(self.resources.values()) > 0:
            given = ",".join(f"{kind}={amount:g}" for kind, amount in self.resources.items())
            raise InputError(f"--resources {given}: amounts must be above 0")


@dataclass(frozen=True)
class Embedded(Shown):
    """Result of an embedding, for programs."""

    out: str
    run: str
    step: int
    weights_sha256: str
    rows: int
    bad_rows: int
    """Unusable units."""
    lost: dict[str, int]
    """Unusable units by their noun."""
    empty: int
    """Rows without content."""
    blocks: int
    width: int
    """Length of a vector."""
    metric: str
    """Metric of a search: `cosine` or `distance`."""
    exact: bool
    """Whether a search compares all vectors."""
    new_rows: int
    """Rows embedded by this command; the others existed."""
    rows_per_s: float | None
    """Rows per second, once the workers had started; None for fewer than two blocks."""
    workers: int
    """Number of workers; 0 if there was nothing to do."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def embed(
    run: Run, data: str, out: str, overrides: Mapping[str, Any], options: Options, report: Report = lambda line: None
) -> Embedded:
    """Find, continue or make the vectors of `data` in the folder `out`. Connects to Ray unless they are complete.

    `overrides` are fields of the source. Raises InputError or RunFailed.
    """
    # Find the data and the weights, and check that what the folder holds fits them.
    spec, folder = run.spec(), Store.at(out)
    began = _begun(folder)
    source = source_of(data, spec, overrides)
    source = source.model_copy(update={"path": Store.at(source.path).url})  # independent of the working folder
    reader = Reader(run)
    found = reader.look(source)
    files = found.files
    if line := found.line(source):
        report(f"embed: {line}")
    if not run.has_checkpoint():
        raise InputError(f"{run.folder} holds no complete checkpoint yet: there are no weights to embed with")
    resources = dict(options.resources or next(iter(spec.scale.all_pools.values())).resources)
    from foundray.vectors.task import prepared  # imports torch, so only after the checks above

    task, weights, recipe = prepared(run, reader, source, files, options, resources, began)
    limits = Limits(
        spec.data.max_bad_rows if options.max_bad_rows is None else options.max_bad_rows,
        spec.data.max_bad_share if options.max_bad_share is None else options.max_bad_share,
        "--max-bad-rows",
        "--max-bad-share",
    )
    # Return what is complete; otherwise make the missing blocks under the folder's lock, and then the index.
    job = Job(folder, parts(files), reader, source, limits, report)
    if began:
        began.check_same(folder, recipe)
        if (complete := Complete.of(folder)) and (folder / INDEX).exists() and not job.todo():
            report(f"embed: {complete.rows:,} rows, embedded before in {plain(folder.url)}")
            return _embedded(folder, recipe, complete)
    folder.check_writable()
    workers = 0
    with RunLock(folder, report, "the embedding in"):
        if now := _begun(folder):  # another command may have begun it meanwhile
            now.check_same(folder, recipe)
        else:
            (folder / "parts").delete_folder()
            (folder / "shards").delete_folder()
            (folder / LISTS).delete_folder()
        if todo := job.todo():
            with connected(report) as ray:
                admit_storage(ray, folder.url, {data: files}, report)
                workers = _workers(room(resources, node_resources()), options.workers, resources, report)
                of = f"{len(files):,} files ({source.format})" if len(files) > 1 else f"{plain(files[0].url)} ({source.format})"
                report(f"embed: {of} by step {recipe.step:,} of {plain(recipe.run)}, on {plural(workers, 'worker')}")
                (folder / RECIPE).write_text(recipe.model_dump_json(indent=1))
                job.run(ray, todo, task, weights, workers, resources)
        complete = finish(folder, job.parts, recipe, limits, report)
    return _embedded(folder, recipe, complete, job, workers)


def _begun(folder: Store) -> Recipe | None:
    """Recipe of the folder's vectors, or None without any. Raises InputError if it holds something else."""
    recipe = Recipe.of(folder)
    return recipe if (folder / "shards").children() else None  # without shards, it broke off before anything was made


def _workers(fits: int, asked: int | None, resources: Mapping[str, float], report: Report) -> int:
    each = ", ".join(f"{amount:g} {kind}" for kind, amount in resources.items())
    if not fits:
        raise InputError(f"no node has {each} for a worker: ask for less, such as --resources CPU=1")
    if asked and asked > fits:
        report(f"workers: {fits} of {asked} (as many as fit, with {each} per worker)")
    return min(asked or fits, fits)


def _embedded(folder: Store, recipe: Recipe, complete: Complete, job: Job | None = None, workers: int = 0) -> Embedded:
    return Embedded(
        out=folder.url,
        run=recipe.run,
        step=recipe.step,
        weights_sha256=recipe.weights_sha256,
        rows=complete.rows,
        bad_rows=complete.bad_rows,
        lost=complete.lost or ({"row": complete.bad_rows} if complete.bad_rows else {}),
        empty=complete.empty,
        blocks=len(complete.shards),
        width=recipe.width,
        metric=complete.metric,
        exact=complete.cells == 1,
        new_rows=job.rows if job else 0,
        rows_per_s=round(job.rows_per_s, 1) if job and job.rows_per_s else None,
        workers=workers,
    )
