"""What a run has recorded, one run or all runs of a folder; and what is done with its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from foundray.api.arguments import Report, SpecPath, silent, text_of

if TYPE_CHECKING:
    from pandas import DataFrame

    from foundray.inspection.auditing import Audit
    from foundray.opened import OpenedRun
    from foundray.runs.facts import Facts
    from foundray.runs.listing import Listed
    from foundray.training.pruning import Removal


def open_run(run: SpecPath) -> OpenedRun:
    """Open a run by its folder, or by its name in `runs/`: its metrics, model and tokenizer. Raises InputError."""
    from foundray.opened import OpenedRun
    from foundray.runs.run import Run

    return OpenedRun(Run.open(text_of(run)))


def status(run: SpecPath) -> Facts:
    """Return where a run stands. Raises InputError."""
    from foundray.runs.run import Run

    return Run.open(text_of(run)).facts()


def list_runs(storage: SpecPath = "runs") -> list[Listed]:
    """Return where each run of a storage folder stands, and the size of its folder. Raises InputError."""
    from foundray.runs.listing import runs_in
    from foundray.storage import Store

    return runs_in(Store.at(text_of(storage)))


def steps(run: SpecPath) -> DataFrame:
    """Return a run's step log as a pandas frame: one row per step, in the order of computation. Raises InputError."""
    from foundray.records import frames
    from foundray.runs.run import Run

    return frames.steps(Run.open(text_of(run)).folder)


def events(run: SpecPath) -> DataFrame:
    """Return a run's event log as a pandas frame: one row per event, in order. Raises InputError."""
    from foundray.records import frames
    from foundray.runs.run import Run

    return frames.events(Run.open(text_of(run)).folder)


def samples(run: SpecPath, step: int, report: Report = silent) -> list[str]:
    """Return the names (shard and row) of the samples that a step used, in order. Steps count from 1.

    Raises InputError, also for a step that the run has not done.
    """
    from foundray.inspection.samples import samples_of
    from foundray.runs.run import Run
    from foundray.training.driver import prepared_data

    opened = Run.open(text_of(run))
    return samples_of(opened, prepared_data(opened).manifest, step, report)


def audit(run: SpecPath) -> Audit:
    """Prove from the run's logs that every sample of every committed step was used exactly once. Raises InputError."""
    from foundray.data.stream.plan import plan_for
    from foundray.inspection.auditing import audit as audit_run
    from foundray.runs.run import Run
    from foundray.training.driver import prepared_data

    opened = Run.open(text_of(run))
    return audit_run(opened, plan_for(prepared_data(opened), opened.spec()))


def report(runs: Sequence[SpecPath], out: SpecPath | None = None, report: Report = silent) -> str:
    """Write one HTML page about a run, several side by side, or a finished search; return its location. Raises InputError."""
    from foundray.host.extras import check_extra

    check_extra("report")
    from foundray.reports import report as write
    from foundray.reports import report_search
    from foundray.reports.searches import find_search
    from foundray.runs.run import Run
    from foundray.storage import Store

    place = None if out is None else Store.at(text_of(out))
    if len(runs) == 1 and (search := find_search(text_of(runs[0]))):
        return report_search(search, place).url
    return write([Run.open(text_of(run)) for run in runs], place, report).url


def track(run: SpecPath, overrides: Mapping[str, Any] | None = None, report: Report = silent) -> None:
    """Send a run's logs to the trackers of its spec, or of `overrides={"trackers": [...]}`, as far as they lack them.

    A command that runs does so itself. Raises InputError, or RunFailed if a tracker could not take everything.
    """
    from foundray.runs.run import Run
    from foundray.tracking.process import track as send

    opened = Run.open(text_of(run))
    send(opened, opened.spec(dict(overrides or {})), report)


def prune(what: SpecPath = "runs", delete: bool = False, report: Report = silent) -> list[Removal]:
    """Return the checkpoints of a run, or of a storage folder's runs, that nothing needs; delete them if asked.

    What `resume`, `extend`, roll-backs and `step="best"` need is not among them. Raises InputError.
    """
    from foundray.training.pruning import prune as find

    return find(text_of(what), delete, report)
