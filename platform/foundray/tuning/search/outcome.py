"""The outcome of a search, in its folder: the tuned spec, the forecast, tables and figures.

tuned.yaml     the full run's spec, ready for `foundray train`
ranking.json   all trials, the ladder, and the FLOPs used
pictures/      the search in parallel coordinates, the scaling law
tensorboard/   the same, and every trial's values and result (HParams)
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from foundray.errors import InputError
from foundray.model.flops import parameters_of
from foundray.runs.run import FORECAST, Run
from foundray.spec import Spec
from foundray.spec.loading import parse_spec
from foundray.tuning import pictures
from foundray.tuning.forecast.forecast import Forecast, Point, Target, forecast
from foundray.tuning.search.carry import tuned_yaml
from foundray.tuning.search.search import Trial
from foundray.tuning.search.table import aligned, ranked, rows, short
from foundray.tuning.search.usage import Usage, usage
from foundray.wording.shown import Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from foundray.tuning.search.driver import SearchRun


@dataclass(frozen=True)
class Tuned(Shown):
    folder: str
    spec: str
    """The tuned spec's file."""
    metric: str
    score: float
    """Score of the best trial."""
    values: dict[str, Any]
    """Values of the best trial."""
    trials: list[Trial]
    """All trials, best first."""
    flops: float
    """FLOPs of search and ladder, without work lost when a process was killed."""
    allowed: float
    """FLOPs allowed."""
    full: float
    """FLOPs of the full run."""
    usage: Usage | None
    forecast: Forecast | None
    no_forecast: str
    """Why there is no forecast."""
    not_begun: int = 0
    """Trials that the spec asks for but the budget could not pay for."""
    ladder: Sequence[Trial] = ()
    """Runs that the forecast is based on."""
    enough: float | None = None
    """The smallest `tune.budget` that pays for all trials, if some were not begun."""

    def table(self) -> str:
        """Text for people: trials, budget, ladder, forecast and the next command."""
        share = f"{self.flops / self.full:.2%} of the full run's {self.full:.3g}"
        bill = f"{self.flops:.3g} FLOPs of {self.allowed:.3g} allowed: {share}"
        lines = [aligned(rows(self.trials, self.metric)), "", f"bill: {bill}"]
        if self.not_begun:
            asked = len(self.trials) + self.not_begun
            more = f"raise tune.budget to {self.enough:g} for all" if self.enough else "set fewer tune.trials"
            lines.append(f"trials: {asked} asked for, {len(self.trials)} paid for: {more}")
        if self.usage:
            lines.append(f"search: {self.usage}")
        if missing := [trial for trial in self.ladder if trial.state != "done"]:
            which = "; ".join(f"{_name(trial)}: {trial.standing}" for trial in missing)
            lines.append(f"ladder: {len(self.ladder) - len(missing)} of {len(self.ladder)} runs; {which}")
        lines += ["", self.forecast.table() if self.forecast else f"no forecast: {self.no_forecast}", ""]
        values = ", ".join(f"{name} {short(value)}" for name, value in self.values.items())
        lines.append(f"best: {values} ({self.metric} {self.score:.4f} as a proxy)")
        return "\n".join([*lines, f"next: foundray train {self.spec}"])

    def to_dict(self) -> dict[str, Any]:
        facts = {
            name: getattr(self, name)
            for name in ("folder", "spec", "metric", "score", "values", "flops", "allowed", "full", "not_begun")
        }
        of_usage = {"usage": asdict(self.usage) if self.usage else None}
        return (
            facts | of_usage | {"trials": list(map(_facts, self.trials)), "forecast": self.forecast and self.forecast.to_dict()}
        )


def write(
    spec: Spec, text: str, overrides: Mapping[str, Any], work: SearchRun, trials: list[Trial], ladder: list[Trial]
) -> Tuned:
    """Write all results into the search's folder, and the forecast into the folder of its run."""
    # The tuned spec: the best trial's values, and the base width and depth that they were found with.
    metric = spec.tune.metric
    order = ranked(trials, metric)
    best, shape = order[0], work.proxy.model
    found = f"best of {len(trials)} trials of width {shape.width}, depth {shape.depth}, {best.results[-1].tokens:,} tokens"
    of_proxy = {"base_width": shape.base_width, "base_depth": shape.base_depth}
    base = {name: value for name, value in of_proxy.items() if value and getattr(spec.model, name) is None}
    file = work.folder / "tuned.yaml"
    tuned_text = tuned_yaml(text, overrides, spec, best.values, base, found, best.horizon)
    file.write_text(tuned_text)
    # The forecast: from the ladder, and from the best trial, which is a run with the same values.
    measured = [*ladder, best] if ladder and best.state == "done" else ladder
    of_full, why = _forecast(parse_spec(tuned_text, str(file)), work, measured)
    machine_usage = usage([trial.results for trial in trials], work.slots)
    tuned = Tuned(
        work.folder.url, file.url, metric, best.score(metric), best.values, order, work.used, work.allowed, work.full,
        machine_usage, of_full, why, work.not_begun, ladder, work.enough,
    )  # fmt: skip
    # Files for programs, pictures for people.
    points = [asdict(point) for point in points_of(measured, work.classes)]
    facts = tuned.to_dict() | {"ladder": list(map(_facts, ladder)), "points": points, "classes": work.classes}
    (work.folder / "ranking.json").write_text(json.dumps(facts, indent=1))
    figures = _pictures(order, metric, of_full, spec.objective.build().loss_unit)
    for name, figure in figures.items():
        pictures.save(figure, work.folder / f"pictures/{name}.svg")
    pictures.show(work.folder / "tensorboard", figures, lambda board: _board(board, order, metric))
    return tuned


def points_of(trials: Sequence[Trial], classes: int) -> list[Point]:
    """Measured points of a ladder's runs, without those that diverged."""
    done = [trial for trial in trials if trial.results and not trial.results[-1].diverged]
    return [
        Point(
            parameters=parameters_of(trial.spec, classes),
            tokens=trial.results[-1].tokens,
            loss=trial.results[-1].val_loss,
            name=_name(trial),
        )
        for trial in done
    ]


def _name(trial: Trial) -> str:
    return f"{trial.spec.model.width}x{trial.spec.model.depth}, {trial.spec.train.steps:,} steps"


def target_of(spec: Spec, classes: int) -> Target:
    """The spec's run as the target of a forecast."""
    return Target(parameters_of(spec, classes), spec.train.steps * spec.tokens_per_step)


def state_forecast(spec: Spec, found: Forecast) -> bool:
    """Write the forecast into its run's folder, unless the run has started: a forecast is stated beforehand."""
    run = Run.named(spec)
    if run.exists():
        return False
    facts = {"fingerprint": spec.fingerprint(), "stated": time.time(), **found.to_dict()}
    (run.folder / FORECAST).write_text(json.dumps(facts))
    return True


def _forecast(spec: Spec, work: SearchRun, ladder: list[Trial]) -> tuple[Forecast | None, str]:
    if not ladder:
        return None, work.why_no_ladder()
    try:
        unit = spec.objective.build().loss_unit
        found = forecast(points_of(ladder, work.classes), target_of(spec, work.classes), unit=unit)
    except InputError as error:
        return None, str(error)
    state_forecast(spec, found)
    return found, ""


def _pictures(trials: Sequence[Trial], metric: str, found: Forecast | None, unit: str) -> dict[str, Figure]:
    scored = [trial for trial in trials if trial.score(metric) < math.inf]
    values, scores = [trial.values for trial in scored], [trial.score(metric) for trial in scored]
    figures = {"search": pictures.parallel_coordinates(list(values[0]), values, scores, unit)}
    return figures | ({"scaling-law": pictures.scaling_law(found)} if found else {})


def _board(board: Any, trials: Sequence[Trial], metric: str) -> None:
    """Every trial's values and result, for TensorBoard's HParams."""
    for trial in (trial for trial in trials if trial.score(metric) < math.inf):
        values = {name: v if isinstance(v, int | float | str) else str(v) for name, v in trial.values.items()}
        result = {f"tune/{metric}": trial.score(metric), "tune/tokens": trial.results[-1].tokens}
        board.add_hparams(values, result, name=f"trial-{trial.number:04d}")


def _facts(trial: Trial) -> dict[str, Any]:
    facts = {"number": trial.number, "values": trial.values, "state": trial.state, "standing": trial.standing}
    facts |= {"folder": trial.folder.name}
    return facts | {"fingerprint": trial.spec.fingerprint(), "rungs": [asdict(rung) for rung in trial.results]}
