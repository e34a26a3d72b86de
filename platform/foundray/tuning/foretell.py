"""`forecast`: which runs make up a ladder, and which run is told of."""

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


def foretell(
    runs: Sequence[str], points: str | None, spec: Spec | None, size: tuple[float, float] | None, report: Callable[[str], None]
) -> Forecast:
    """From runs' folders, or a CSV of points; of the spec's run, or of a `size` (parameters, tokens). Raises InputError."""
    if bool(runs) == bool(points):
        raise InputError("name the runs of a ladder, or --points FILE: a CSV with the columns N, D and loss")
    if spec is not None and size is not None:
        raise InputError("--for names the run to be told of, and so do --parameters and --tokens: one of them would do")
    if spec is not None:
        check_from_scratch(spec, "a ladder")
    classes = 0
    if points:
        ladder = points_from_csv(points)
    else:
        ladder, classes, searched = _ladder(runs)
        spec = spec or (None if size else searched)
    if size is None and spec is None:
        raise InputError("of which run? --for SPEC, or --parameters N --tokens D")
    if size is None and points:
        raise InputError("points tell of sizes alone: --parameters N --tokens D of the run to be told of")
    found = forecast(ladder, Target(*size) if size or spec is None else target_of(spec, classes))  # type: ignore[misc]
    if spec is not None:
        place = Run.named(spec).folder
        if state_forecast(spec, found):
            pictures.save(pictures.scaling_law(found), place / "forecast.svg")
            report(f"stated in {place}, and shown by `foundray status` beside what happens")
        else:
            report(f"{place} has begun: the forecast is not kept there")
    return found


def _ladder(locations: Sequence[str]) -> tuple[list[Point], int, Spec | None]:
    """The points of finished runs and of searches' ladders; the ids of their data; the run that a search was for."""
    ladder: list[Point] = []
    searched, classes = None, 0
    for location in locations:
        folder = Store.at(location)
        if (folder / "ranking.json").exists():
            facts = json.loads((folder / "ranking.json").read_text())
            ladder += [Point(**point) for point in facts["points"]]
            classes = facts["classes"]
            searched = parse_spec((folder / "tuned.yaml").read_text(), str(folder / "tuned.yaml"))
            continue
        run = Run.open(location)
        if (stands := run.facts()).state != "finished" or stands.val_loss is None or not math.isfinite(stands.val_loss):
            raise InputError(f"{location} is not finished ({stands.state}, step {stands.step}): a ladder takes whole runs")
        classes = run.manifest()["vocabulary"]
        ladder.append(Point(parameters_of(run.spec(), classes), stands.tokens, stands.val_loss, run.folder.name))
    return ladder, classes, searched
