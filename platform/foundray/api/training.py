"""A run from its start to its end: train it, continue it, make it longer, branch from it, stop it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from foundray.api.arguments import OnEvent, Report, SpecPath, silent, text_of

if TYPE_CHECKING:
    from foundray.runs.facts import Facts


def train(
    spec: SpecPath,
    overrides: Mapping[str, Any] | None = None,
    report: Report = silent,
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

    return driver.train(load_spec(text_of(spec), overrides), report, show_progress, on_event)


def resume(
    run: SpecPath,
    overrides: Mapping[str, Any] | None = None,
    report: Report = silent,
    show_progress: bool = False,
    on_event: OnEvent | None = None,
) -> Facts:
    """Continue a run from its last complete checkpoint; arguments as for `train`. Raises InputError or RunFailed.

    `run` is a run's folder, or its name in `runs/`. `overrides` may only change fields that do not decide the result.
    """
    from foundray.runs.run import Run
    from foundray.training import driver

    opened = Run.open(text_of(run))
    return driver.resume(opened, opened.spec(dict(overrides or {})), report, show_progress, on_event)


def extend(
    run: SpecPath,
    steps: int | None = None,
    tokens: int | None = None,
    epochs: float | None = None,
    overrides: Mapping[str, Any] | None = None,
    report: Report = silent,
    show_progress: bool = False,
    on_event: OnEvent | None = None,
) -> Facts:
    """Make a run longer, and continue it to its new end, with the bits of a run that was planned so long.

    One of `steps`, `tokens` and `epochs` gives the new length; `overrides` are fields that do not change the result;
    the rest as for `train`. Raises InputError if the run would have to start over, and RunFailed.
    """
    from foundray.runs.extension import length_of
    from foundray.runs.run import Run
    from foundray.training import driver
    from foundray.training.extending import extend as make_longer

    opened = Run.open(text_of(run))
    opened.spec(dict(overrides or {}))  # refuses overrides that change the result, before anything is written
    make_longer(opened, length_of(steps, tokens, epochs), lambda: driver.prepared_data(opened), report)
    return driver.resume(opened, opened.spec(dict(overrides or {})), report, show_progress, on_event)


def branch(
    run: SpecPath,
    step: int | str | None = None,
    overrides: Mapping[str, Any] | None = None,
    report: Report = silent,
    show_progress: bool = False,
    on_event: OnEvent | None = None,
) -> Facts:
    """Make a new run from a run's checkpoint, with its optimizer's state, and train it; `overrides` say what differs.

    `step` is the checkpoint's (default: the newest; `best`: the one with the lowest validation loss). Raises InputError, also
    for a change that the state does not fit, and RunFailed.
    """
    from foundray.runs.run import Run
    from foundray.training import driver

    opened = Run.open(text_of(run))
    wanted = opened.checkpoint_step(step)
    from foundray.training.branching import branch as make_branch  # imports torch, so only after the run is checked

    made = make_branch(opened, wanted, dict(overrides or {}), report)
    return driver.resume(made, made.spec(), report, show_progress, on_event)


def stop(run: SpecPath, report: Report = silent) -> Facts:
    """Stop a run at its next step boundary, with a checkpoint, wherever it runs. Raises InputError."""
    from foundray.runs.run import Run
    from foundray.runs.stopping import stop as stop_run

    return stop_run(Run.open(text_of(run)), report)
