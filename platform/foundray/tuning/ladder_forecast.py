"""`forecast`: collects the runs of a ladder, and forecasts the target run's loss from them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence

from foundray.errors import InputError
from foundray.model.flops import parameters_of
from foundray.runs.run import Run
from foundray.spec import Spec
from foundray.spec.loading import parse_spec
from foundray.storage import Store
from foundray.tuning import pictures
from foundray.tuning.forecast.forecast import Forecast, Point, Target, forecast, points_from_csv
from foundray.tuning.search.from_scratch import check_from_scratch
from foundray.tuning.search.outcome import state_forecast, target_of


def forecast_from_ladder(
    runs: Sequence[str], points: str | None, spec: Spec | None, size: tuple[float, float] | None, report: Callable[[str], None]
) -> Forecast:
    """Forecast the spec's run, or one of a `size` (parameters, tokens), from runs' folders or a CSV of points.

    Raises InputError.
    """
    # Check the arguments, and read the ladder.
    if bool(runs) == bool(points):
        raise InputError("name the runs of a ladder, or --points FILE: a CSV with the columns N, D and loss")
    if spec is not None and size is not None:
        raise InputError("--for names the target run, and so do --parameters and --tokens: give one or the other")
    if spec is not None:
        check_from_scratch(spec, "a ladder")
    classes, unit = 0, "nats"
    if points:
        ladder = points_from_csv(points)
    else:
        ladder, classes, unit, searched = _ladder(runs)
        spec = spec or (None if size else searched)
    if size is None and spec is None:
        raise InputError("no target run is given: add --for SPEC, or --parameters N --tokens D")
    if size is None and points:
        raise InputError("a CSV of points needs the target's size: give --parameters N --tokens D instead of --for")
    # Forecast, and state the forecast in the run's folder if the run has not started.
    target = Target(*size) if size or spec is None else target_of(spec, classes)  # type: ignore[misc]
    found = forecast(ladder, target, unit=unit if spec is None else spec.objective.build().loss_unit)
    if spec is not None:
        folder = Run.named(spec).folder
        if state_forecast(spec, found):
            pictures.save(pictures.scaling_law(found), folder / "forecast.svg")
            report(f"forecast written into {folder}; `foundray status` shows it beside the run's loss")
        else:
            report(f"{folder} has begun: the forecast is not kept there")
    return found


def _ladder(locations: Sequence[str]) -> tuple[list[Point], int, str, Spec | None]:
    """Points of finished runs and of searches' ladders, the ids in their data, the unit of losses, a search's tuned spec."""
    ladder: list[Point] = []
    searched, classes, unit = None, 0, "nats"
    for location in locations:
        folder = Store.at(location)
        if (folder / "ranking.json").exists():
            ranking = json.loads((folder / "ranking.json").read_text())
            ladder += [Point(**point) for point in ranking["points"]]
            classes = ranking["classes"]
            searched = parse_spec((folder / "tuned.yaml").read_text(), str(folder / "tuned.yaml"))
            unit = searched.objective.build().loss_unit
            continue
        run = Run.open(location)
        facts = run.facts()
        if facts.state != "finished" or facts.val_loss is None or not math.isfinite(facts.val_loss):
            raise InputError(f"{location} is not finished ({facts.state}, step {facts.step}): a ladder takes finished runs")
        classes = run.manifest()["vocabulary"]
        unit = run.spec().objective.build().loss_unit
        ladder.append(Point(parameters_of(run.spec(), classes), facts.tokens, facts.val_loss, run.folder.name))
    return ladder, classes, unit, searched
