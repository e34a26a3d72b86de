"""Hyperparameters and forecasts from small runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from foundray.api.arguments import Report, SpecPath, silent, text_of

if TYPE_CHECKING:
    from foundray.tuning.forecast.forecast import Forecast
    from foundray.tuning.search.outcome import Tuned
    from foundray.tuning.transfer.coordcheck import CoordinateCheck
    from foundray.tuning.transfer.transfer import Transfer


def tune(
    spec: SpecPath, overrides: Mapping[str, Any] | None = None, report: Report = silent, show_progress: bool = False
) -> Tuned:
    """Search hyperparameters on proxies, and write the full run's spec with them. Raises InputError or RunFailed."""
    from foundray.cluster.connect import enter_cluster
    from foundray.spec.loading import load_spec, read_yaml

    checked = load_spec(text_of(spec), overrides)
    enter_cluster()
    from foundray.data.prepare.length import known_in_steps
    from foundray.tuning.search.driver import tune as search

    return search(known_in_steps(checked), read_yaml(text_of(spec), "the spec"), dict(overrides or {}), report, show_progress)


def coordcheck(
    spec: SpecPath,
    overrides: Mapping[str, Any] | None = None,
    widths: Sequence[int] = (),
    depths: Sequence[int] = (),
    steps: int = 5,
    report: Report = silent,
) -> CoordinateCheck:
    """Measure how much activations move in a few steps, by width or by depth. Raises InputError."""
    from foundray.cluster.connect import enter_cluster
    from foundray.spec.loading import load_spec

    checked = load_spec(text_of(spec), overrides)
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
    report: Report = silent,
) -> Transfer:
    """Find the best learning rate by width, under CompleteP and under the standard parametrisation. Raises InputError."""
    from foundray.cluster.connect import enter_cluster
    from foundray.spec.loading import load_spec

    checked = load_spec(text_of(spec), overrides)
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
    report: Report = silent,
) -> Forecast:
    """Forecast the loss of the spec `target`, or of `size` (parameters, tokens), from a ladder of runs or a CSV of points.

    Raises InputError.
    """
    from foundray.data.prepare.length import known_in_steps
    from foundray.spec.loading import load_spec

    spec = None if target is None else known_in_steps(load_spec(text_of(target), overrides))
    from foundray.tuning.ladder_forecast import forecast_from_ladder

    return forecast_from_ladder([text_of(run) for run in runs], None if points is None else text_of(points), spec, size, report)
