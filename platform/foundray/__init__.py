"""Foundray: elastic pre-training on Ray. The verbs of the command line, as functions.

Each imports what it needs inside, so that `import foundray` is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

from foundray.errors import FoundrayError, InputError, RunFailed

if TYPE_CHECKING:
    from pathlib import Path

    from pandas import DataFrame

    from foundray.data.prepare.manifest import Prepared
    from foundray.evaluation.likelihood import TaskResult
    from foundray.evaluation.probes.task import Judgement
    from foundray.exports import Exported
    from foundray.exports.folder import Loaded
    from foundray.inspection.auditing import Audit
    from foundray.inspection.quarantined import Quarantine
    from foundray.opened import OpenedRun
    from foundray.planning import Plan
    from foundray.proposing import Written
    from foundray.runs.facts import Facts
    from foundray.runs.listing import Listed
    from foundray.training.pruning import Removal
    from foundray.tuning.forecast.forecast import Forecast
    from foundray.tuning.search.outcome import Tuned
    from foundray.tuning.transfer.coordcheck import CoordinateCheck
    from foundray.tuning.transfer.transfer import Transfer
    from foundray.vectors.embed import Embedded
    from foundray.vectors.search import Hit

__version__ = "0.1.0"
__all__ = [
    "FoundrayError", "InputError", "RunFailed", "audit", "branch", "coordcheck", "embed", "evaluate", "export", "extend",
    "fetch", "forecast", "init", "list_runs", "load", "open_run", "plan", "prepare", "probe", "prune", "quarantine", "report",
    "resume", "sample", "samples", "search", "status", "stop", "track", "train", "transfer", "tune",
]  # fmt: skip

SpecPath = str | PathLike[str]
Report = Callable[[str], None]
OnEvent = Callable[[dict[str, Any]], None]


def _silent(line: str) -> None:
    pass


def init(
    data: SpecPath | None = None,
    out: SpecPath | None = None,
    minutes: float = 5.0,
    example: str | None = None,
    report: Report = _silent,
) -> Written:
    """Look at data (a file, folder, glob or URL; default: data/), and write a spec that trains on it for about `minutes` here.

    With `example`, start from that example instead. `out` is the spec's file, which must not exist. Raises InputError.
    """
    target = None if out is None else _path(out)
    if example is not None:
        from foundray.proposing.starting import from_example

        return from_example(example, target, report)
    place = "data" if data is None else _path(data)
    report(f"looking at {place}")  # at once: the imports take a second
    from foundray.proposing import init as propose

    return propose(place, target, minutes, report)


def plan(
    spec: SpecPath,
    overrides: Mapping[str, Any] | None = None,
    tokenizers: Sequence[SpecPath] = (),
    gpus: Sequence[str] = (),
    prices: Sequence[str] = (),
    because: Sequence[str] = (),
    peak_flops: float | None = None,
    sample_bytes: int | None = None,
    mfu: float | None = None,
    mtbf_hours: float | None = None,
    machines: int | None = None,
    seconds_a_gigabyte: float | None = None,
    report: Report = _silent,
) -> Plan:
    """Estimate whether to pre-train on the spec's data, and what it will take. Starts nothing. Raises InputError.

    `tokenizers` are tokenizer.json files of models to start from, `gpus` such as `H100:8`, `prices` such as `H100=2.5`,
    `because` any of `architecture`, `control` and `research`. For each None, the plan names the value that it assumes.
    """
    from foundray.spec.loading import load_spec

    checked = load_spec(_path(spec), overrides)
    from foundray.planning import plan as make  # imports torch, so only after the spec is checked
    from foundray.planning.cost import assume

    assumptions = assume(mfu, mtbf_hours, machines, seconds_a_gigabyte)
    files = [_path(file) for file in tokenizers]
    return make(checked, files, gpus, prices, because, peak_flops, sample_bytes, assumptions, report)


def prepare(spec: SpecPath, overrides: Mapping[str, Any] | None = None, report: Report = _silent) -> Prepared:
    """Turn the spec's raw sources into prepared shards. Raises InputError."""
    from foundray.cluster.connect import connected
    from foundray.data.prepare.prepare import prepare as prepare_data
    from foundray.data.prepare.recipe import prepared_folder
    from foundray.preflight.admission import admit
    from foundray.spec.loading import load_spec
    from foundray.storage import Store

    checked = load_spec(_path(spec), overrides)
    Store.at(checked.storage).check_writable()
    prepared_folder(checked)
    with connected(report) as ray:
        admit(ray, checked, report)
        return prepare_data(checked, report)


def quarantine(what: SpecPath, overrides: Mapping[str, Any] | None = None, source: int | None = None) -> Quarantine:
    """Return which data of a run, a spec, or a folder of prepared data or vectors could not be used; of one source, if given.

    `overrides` are fields of the spec. Raises InputError.
    """
    from foundray.inspection.quarantined import quarantine as look

    return look(_path(what), dict(overrides or {}), source)


def train(
    spec: SpecPath,
    overrides: Mapping[str, Any] | None = None,
    report: Report = _silent,
    show_progress: bool = False,
    on_event: OnEvent | None = None,
) -> Facts:
    """Run a spec to its end, after preparing its data if needed; return where the run stands then.

    `overrides` are fields by dotted name, such as `{"train.steps": 500}`. `report` takes each line for people, such as
    `print`; `show_progress` draws a bar on a terminal. `on_event` is called in a thread with each record as it happens: a
    step's (`event` is `step`) and each event's, with the fields that docs/spec.md lists. It may be slow or fail without a cost
    to the run, and may call `stop`. Raises InputError or RunFailed.
    """
    from foundray.spec.loading import load_spec
    from foundray.training import driver

    return driver.train(load_spec(_path(spec), overrides), report, show_progress, on_event)


def resume(
    run: SpecPath,
    overrides: Mapping[str, Any] | None = None,
    report: Report = _silent,
    show_progress: bool = False,
    on_event: OnEvent | None = None,
) -> Facts:
    """Continue a run from its last complete checkpoint; arguments as for `train`. Raises InputError or RunFailed.

    `run` is a run's folder, or its name in `runs/`. `overrides` may only change fields that do not decide the result.
    """
    from foundray.runs.run import Run
    from foundray.training import driver

    opened = Run.open(_path(run))
    return driver.resume(opened, opened.spec(dict(overrides or {})), report, show_progress, on_event)


def open_run(run: SpecPath) -> OpenedRun:
    """Open a run by its folder, or by its name in `runs/`: its metrics, model and tokenizer. Raises InputError."""
    from foundray.opened import OpenedRun
    from foundray.runs.run import Run

    return OpenedRun(Run.open(_path(run)))


def extend(
    run: SpecPath,
    steps: int | None = None,
    tokens: int | None = None,
    epochs: float | None = None,
    overrides: Mapping[str, Any] | None = None,
    report: Report = _silent,
    show_progress: bool = False,
    on_event: OnEvent | None = None,
) -> Facts:
    """Make a run longer, and continue it to its new end, with the bits of a run that was planned so long.

    One of `steps`, `tokens` and `epochs` gives the new length; `overrides` are fields that do not change the result;
    the rest as for `train`. Raises InputError if the run would have to start over, and RunFailed.
    """
    from foundray.runs.run import Run
    from foundray.training import driver
    from foundray.training.extending import extend as make_longer

    opened = Run.open(_path(run))
    opened.spec(dict(overrides or {}))  # refuses overrides that change the result, before anything is written
    length = {"steps": steps, "tokens": tokens, "epochs": epochs}
    given = {name: value for name, value in length.items() if value is not None}
    make_longer(opened, given, lambda: driver.prepared_data(opened), report)
    return driver.resume(opened, opened.spec(dict(overrides or {})), report, show_progress, on_event)


def branch(
    run: SpecPath,
    step: int | str | None = None,
    overrides: Mapping[str, Any] | None = None,
    report: Report = _silent,
    show_progress: bool = False,
    on_event: OnEvent | None = None,
) -> Facts:
    """Make a new run from a run's checkpoint, with its optimizer's state, and train it; `overrides` say what differs.

    `step` is the checkpoint's (default: the newest; `best`: the one with the lowest validation loss). Raises InputError, also
    for a change that the state does not fit, and RunFailed.
    """
    from foundray.runs.run import Run
    from foundray.training import driver

    opened = Run.open(_path(run))
    wanted = opened.checkpoint_step(step)
    from foundray.training.branching import branch as make_branch  # imports torch, so only after the run is checked

    made = make_branch(opened, wanted, dict(overrides or {}), report)
    return driver.resume(made, made.spec(), report, show_progress, on_event)


def status(run: SpecPath) -> Facts:
    """Return where a run stands. Raises InputError."""
    from foundray.runs.run import Run

    return Run.open(_path(run)).facts()


def list_runs(storage: SpecPath = "runs") -> list[Listed]:
    """Return where each run of a storage folder stands, and the size of its folder. Raises InputError."""
    from foundray.runs.listing import runs_in
    from foundray.storage import Store

    return runs_in(Store.at(_path(storage)))


def prune(what: SpecPath = "runs", delete: bool = False, report: Report = _silent) -> list[Removal]:
    """Return the checkpoints of a run, or of a storage folder's runs, that nothing needs; delete them if asked.

    What `resume`, `extend`, roll-backs and `step="best"` need is not among them. Raises InputError.
    """
    from foundray.training.pruning import prune as find

    return find(_path(what), delete, report)


def stop(run: SpecPath, report: Report = _silent) -> Facts:
    """Stop a run at its next step boundary, with a checkpoint, wherever it runs. Raises InputError."""
    from foundray.runs.run import Run
    from foundray.runs.stopping import stop as stop_run

    return stop_run(Run.open(_path(run)), report)


def report(runs: Sequence[SpecPath], out: SpecPath | None = None, report: Report = _silent) -> str:
    """Write one HTML page about a run, several side by side, or a finished search; return its location. Raises InputError."""
    from foundray.host.extras import check_extra

    check_extra("report")
    from foundray.reports import report as write
    from foundray.reports import report_search
    from foundray.reports.searches import find_search
    from foundray.runs.run import Run
    from foundray.storage import Store

    place = None if out is None else Store.at(_path(out))
    if len(runs) == 1 and (search := find_search(_path(runs[0]))):
        return report_search(search, place).url
    return write([Run.open(_path(run)) for run in runs], place, report).url


def steps(run: SpecPath) -> DataFrame:
    """Return a run's step log as a pandas frame: one row per step, in the order of computation. Raises InputError."""
    from foundray.records import frames
    from foundray.runs.run import Run

    return frames.steps(Run.open(_path(run)).folder)


def events(run: SpecPath) -> DataFrame:
    """Return a run's event log as a pandas frame: one row per event, in order. Raises InputError."""
    from foundray.records import frames
    from foundray.runs.run import Run

    return frames.events(Run.open(_path(run)).folder)


def track(run: SpecPath, overrides: Mapping[str, Any] | None = None, report: Report = _silent) -> None:
    """Send a run's logs to the trackers of its spec, or of `overrides={"trackers": [...]}`, as far as they lack them.

    A command that runs does so itself. Raises InputError, or RunFailed if a tracker could not take everything.
    """
    from foundray.runs.run import Run
    from foundray.tracking.process import track as send

    opened = Run.open(_path(run))
    send(opened, opened.spec(dict(overrides or {})), report)


def audit(run: SpecPath) -> Audit:
    """Prove from the run's logs that every sample of every committed step was used exactly once. Raises InputError."""
    from foundray.data.stream.plan import plan_for
    from foundray.inspection.auditing import audit as audit_run
    from foundray.runs.run import Run
    from foundray.training.driver import prepared_data

    opened = Run.open(_path(run))
    return audit_run(opened, plan_for(prepared_data(opened), opened.spec()))


def samples(run: SpecPath, step: int, report: Report = _silent) -> list[str]:
    """Return the names (shard and row) of the samples that a step used, in order. Steps count from 1.

    Raises InputError, also for a step that the run has not done.
    """
    from foundray.inspection.samples import samples_of
    from foundray.runs.run import Run
    from foundray.training.driver import prepared_data

    opened = Run.open(_path(run))
    return samples_of(opened, prepared_data(opened).manifest, step, report)


def sample(
    run: SpecPath,
    prompt: str = "",
    tokens: int = 200,
    temperature: float = 0.8,
    top_k: int = 50,
    seed: int = 0,
    step: int | str | None = None,
) -> str:
    """Continue a text with the run's newest weights, or those after `step`; return both. Raises InputError.

    `step="best"` is the checkpoint with the lowest validation loss.
    """
    from foundray.runs.run import Run

    opened = Run.open(_path(run))
    from foundray.exports.generate import generate  # imports torch, so only after the name is checked

    return generate(opened, prompt, tokens, temperature, top_k, seed, step)


def probe(run: SpecPath, task: SpecPath, overrides: Mapping[str, Any] | None = None) -> Judgement:
    """Judge a run's newest weights on a task, compared with a floor and the same network untrained. Raises InputError."""
    from foundray.host.extras import check_extra

    check_extra("probe")
    from foundray.evaluation.probes import load_task
    from foundray.evaluation.probes import probe as judge
    from foundray.runs.run import Run

    checked = load_task(_path(task), overrides)
    return judge(Run.open(_path(run)), checked)


def evaluate(
    run: SpecPath, task: SpecPath, delimiter: str = "", limit: int | None = None, step: int | str | None = None
) -> TaskResult:
    """Judge a run's newest weights, or those after `step`, on a task by likelihood: a file of JSON Lines. Raises InputError.

    `delimiter` stands between a context and what follows it; of the items, at most `limit` are used.
    """
    from foundray.runs.run import Run

    opened = Run.open(_path(run))
    from foundray.evaluation.likelihood import evaluate as judge  # imports torch, so only after the name is checked

    return judge(opened, _path(task), delimiter, limit, step)


def export(
    run: SpecPath,
    out: SpecPath,
    step: int | str | None = None,
    overrides: Mapping[str, Any] | None = None,
    report: Report = _silent,
) -> Exported:
    """Write a run's model, after its newest checkpoint or after `step`, as a folder that Hugging Face's classes load.

    `step="best"` is the checkpoint with the lowest validation loss.

    If none of them computes the same, the folder has Foundray's own form, for `load`. `overrides` are fields that do not
    change the result, such as a source's licence. Raises InputError.
    """
    from foundray.host.extras import check_extra

    check_extra("export")
    from foundray.exports import export as write
    from foundray.runs.run import Run
    from foundray.storage import Store

    return write(Run.open(_path(run)), Store.at(_path(out)), step, dict(overrides or {}), report)


def load(folder: SpecPath, layer: int | Literal["last", "all"] = "last") -> Loaded:
    """Load what `export` wrote as an encoder: data in, features of layer `layer` out. Raises InputError."""
    from foundray.exports.folder import load as read

    return read(_path(folder), layer)


def embed(
    run: SpecPath,
    data: SpecPath,
    out: SpecPath,
    overrides: Mapping[str, Any] | None = None,
    *,
    layer: int | str = "last",
    pool: str = "mean",
    normalise: bool = False,
    workers: int | None = None,
    resources: Mapping[str, float] | None = None,
    max_bad_rows: int | None = None,
    max_bad_share: float | None = None,
    report: Report = _silent,
) -> Embedded:
    """Write a run's vectors of data (a file, folder, glob or URL) as Parquet to `out`; continue after an interruption.

    `overrides` are fields of the data's source. Raises InputError.
    """
    from foundray.host.extras import check_extra
    from foundray.runs.run import Run

    check_extra("embed")
    from foundray.vectors.embed import Options
    from foundray.vectors.embed import embed as embed_data

    options = Options(layer, pool, normalise, workers, resources, max_bad_rows, max_bad_share)
    return embed_data(Run.open(_path(run)), _path(data), _path(out), dict(overrides or {}), options, report)


def search(
    out: SpecPath, query: str | None = None, *, like: str | None = None, top: int = 10, run: SpecPath | None = None
) -> list[Hit]:
    """Return the rows of a folder of vectors nearest to a text, to a file's first row, or to the row with the id `like`.

    `run` locates the run that made them, if it has moved. Raises InputError. For many queries, keep a
    `foundray.vectors.search.Searcher`.
    """
    from foundray.host.extras import check_extra

    check_extra("embed")
    from foundray.vectors.search import Searcher

    return Searcher(_path(out), None if run is None else _path(run)).search(query, like, top)


def tune(
    spec: SpecPath, overrides: Mapping[str, Any] | None = None, report: Report = _silent, show_progress: bool = False
) -> Tuned:
    """Search hyperparameters on proxies, and write the full run's spec with them. Raises InputError or RunFailed."""
    from foundray.cluster.connect import enter_cluster
    from foundray.spec.loading import load_spec, read_yaml

    checked = load_spec(_path(spec), overrides)
    enter_cluster()
    from foundray.data.prepare.length import known_in_steps
    from foundray.tuning.search.driver import tune as search

    return search(known_in_steps(checked), read_yaml(_path(spec), "the spec"), dict(overrides or {}), report, show_progress)


def coordcheck(
    spec: SpecPath,
    overrides: Mapping[str, Any] | None = None,
    widths: Sequence[int] = (),
    depths: Sequence[int] = (),
    steps: int = 5,
    report: Report = _silent,
) -> CoordinateCheck:
    """Measure how much activations move in a few steps, by width or by depth. Raises InputError."""
    from foundray.cluster.connect import enter_cluster
    from foundray.spec.loading import load_spec

    checked = load_spec(_path(spec), overrides)
    enter_cluster()
    from foundray.data.prepare.length import known_in_steps
    from foundray.tuning.transfer.coordcheck import coordcheck as check

    return check(known_in_steps(checked), widths, depths, steps, report)


def transfer(
    spec: SpecPath,
    widths: Sequence[int],
    rates: Sequence[float],
    overrides: Mapping[str, Any] | None = None,
    seeds: int = 3,
    steps: int = 200,
    report: Report = _silent,
) -> Transfer:
    """Find the best learning rate by width, under CompleteP and under the standard parametrisation. Raises InputError."""
    from foundray.cluster.connect import enter_cluster
    from foundray.spec.loading import load_spec

    checked = load_spec(_path(spec), overrides)
    enter_cluster()
    from foundray.data.prepare.length import known_in_steps
    from foundray.tuning.transfer.transfer import transfer as check

    return check(known_in_steps(checked), widths, rates, seeds, steps, report)


def forecast(
    runs: Sequence[SpecPath] = (),
    points: SpecPath | None = None,
    target: SpecPath | None = None,
    size: tuple[float, float] | None = None,
    overrides: Mapping[str, Any] | None = None,
    report: Report = _silent,
) -> Forecast:
    """Forecast the loss of the spec `target`, or of `size` (parameters, tokens), from a ladder of runs or a CSV of points.

    Raises InputError.
    """
    from foundray.data.prepare.length import known_in_steps
    from foundray.spec.loading import load_spec

    spec = None if target is None else known_in_steps(load_spec(_path(target), overrides))
    from foundray.tuning.ladder_forecast import forecast_from_ladder

    return forecast_from_ladder([_path(run) for run in runs], None if points is None else _path(points), spec, size, report)


def fetch(name: str, to: SpecPath = "data", mirror: SpecPath | None = None, report: Report = _silent) -> Path:
    """Get an example's data into its folder inside `to`; return that folder. Raises InputError."""
    from pathlib import Path

    from foundray.examples import fetch as fetch_data

    return fetch_data(name, Path(to), None if mirror is None else Path(mirror), report)


def _path(path: SpecPath) -> str:
    from os import fspath

    return fspath(path)
