"""`transfer`: whether the best learning rate at one width stays best at another, with and without CompleteP."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from foundray.cluster.connect import connected
from foundray.data.prepare.prepare import prepare
from foundray.data.prepare.recipe import prepared_folder
from foundray.errors import InputError
from foundray.spec import Spec
from foundray.storage import Store
from foundray.training.driver import check_fits
from foundray.tuning import pictures
from foundray.tuning.search.from_scratch import check_from_scratch
from foundray.tuning.search.proxy import at_size, with_values
from foundray.tuning.search.table import aligned
from foundray.tuning.search.trial import Job, RungResult, job_of, run
from foundray.tuning.transfer.coordcheck import COMPLETEP, STANDARD
from foundray.wording.shown import Shown

Found = dict[str, dict[int, list[tuple[float, float, float]]]]
"""By parametrisation and width: (learning rate, mean loss over the seeds, its standard deviation), ascending by rate."""


@dataclass(frozen=True)
class Transfer(Shown):
    steps: int
    seeds: int
    found: Found
    picture: str
    unit: str
    """Unit of the losses."""

    def best(self, title: str, width: int) -> int:
        """Index of the best rate."""
        losses = [loss for _, loss, _ in self.found[title][width]]
        return losses.index(min(losses))

    def verdict(self, title: str) -> dict[str, float]:
        """From the narrowest to the widest: by how many rates the best one moved, and the loss that carrying it over costs."""
        narrow, wide = min(self.found[title]), max(self.found[title])
        carried, best = self.best(title, narrow), self.best(title, wide)
        losses = [loss for _, loss, _ in self.found[title][wide]]
        return {"moved": best - carried, "lost": losses[carried] - losses[best]}

    def table(self) -> str:
        """Table for people: a row per rate, then the verdict of each parametrisation."""
        columns = [(title, width) for title, widths in self.found.items() for width in widths]
        rows = [["lr", *(f"{title} {width}" for title, width in columns)]]
        for index, (rate, _, _) in enumerate(self.found[COMPLETEP][columns[0][1]]):
            cells = [self.found[title][width][index] for title, width in columns]
            rows.append([f"{rate:.4g}", *(f"{loss:.4f} ± {spread:.4f}" for _, loss, spread in cells)])
        lines = [
            f"validation loss after {self.steps} steps, {self.unit}: mean ± standard deviation, seeds: {self.seeds}",
            aligned(rows),
        ]
        for title, widths in self.found.items():
            verdict = self.verdict(title)
            best = ", ".join(f"{widths[width][self.best(title, width)][0]:.4g} at width {width}" for width in widths)
            moved, lost = verdict["moved"], verdict["lost"]
            lines.append(f"{title}: best is {best} ({moved:+.0f} rates); carrying the rate over costs {lost:.4f} {self.unit}")
        return "\n".join([*lines, f"picture: {self.picture}"])

    def to_dict(self) -> dict[str, Any]:
        verdicts = {title: self.verdict(title) for title in self.found}
        return {"steps": self.steps, "seeds": self.seeds, "found": self.found, "verdicts": verdicts, "picture": self.picture}


def transfer(
    spec: Spec, widths: Sequence[int], rates: Sequence[float], seeds: int, steps: int, report: Callable[[str], None]
) -> Transfer:
    """Train at every width with every rate and `seeds` seeds; the narrowest width is the base. Raises InputError."""
    # Check the arguments, and list the runs to compare.
    check_from_scratch(spec, "transfer")
    widths, rates = sorted(set(widths)), sorted(set(rates))
    if len(widths) < 2 or len(rates) < 3 or rates[0] <= 0 or seeds < 1 or steps < 1:
        raise InputError("transfer needs two or more --widths, three or more --rates above 0, and at least one seed and step")
    specs = {
        (title, width, rate, seed): _spec(spec, width, base, rate, spec.seed + seed, steps)
        for title, base in ((COMPLETEP, widths[0]), (STANDARD, None))
        for width in widths
        for rate in rates
        for seed in range(seeds)
    }
    prepared_folder(spec)
    folder = Store.at(spec.storage) / f"{spec.name}-transfer"
    with connected(report) as ray:
        prepared = prepare(spec, report)
        check_fits(spec, prepared)
        # At the base's width both parametrisations are the same run, which is trained once.
        runs = {one.fingerprint(): one for one in map(_normalised, specs.values())}
        jobs = {name: job_of(folder / "runs" / name, one, prepared, [steps]) for name, one in runs.items()}
        report(f"{len(jobs)} runs of {steps} steps")
        task = ray.remote(_loss).options(num_cpus=spec.scale.worker_threads, max_retries=3)
        found = dict(zip(jobs, ray.get([task.remote(job) for job in jobs.values()]), strict=True))
    # Average over the seeds, and draw.
    losses = {key: found[_normalised(one).fingerprint()] for key, one in specs.items()}
    curves: Found = {
        title: {
            width: [_over_seeds(rate, [losses[title, width, rate, s] for s in range(seeds)]) for rate in rates]
            for width in widths
        }
        for title in (COMPLETEP, STANDARD)
    }
    unit = spec.objective.build().loss_unit
    figure = pictures.transfer(curves, unit)
    pictures.save(figure, folder / "transfer.svg")
    pictures.show(folder / "tensorboard", {"transfer": figure})
    return Transfer(steps, seeds, curves, (folder / "transfer.svg").url, unit)


def _spec(spec: Spec, width: int, base: int | None, rate: float, seed: int, steps: int) -> Spec:
    try:
        model = spec.model.of_width(width).model_copy(update={"base_width": base, "base_depth": None})
    except ValueError as error:
        raise InputError(f"--widths: {error}") from None
    return with_values(at_size(spec, model, steps), {"optimizer.lr": rate, "seed": seed})


def _normalised(spec: Spec) -> Spec:
    """The spec without a base width if that is the model's own width."""
    same = spec.model.base_width == spec.model.width
    return spec.model_copy(update={"model": spec.model.model_copy(update={"base_width": None})}) if same else spec


def _loss(job: Job) -> float:
    found: list[RungResult] = []
    run(job, found.append)
    return found[-1].val_loss


def _over_seeds(rate: float, losses: Sequence[float]) -> tuple[float, float, float]:
    finite = all(map(math.isfinite, losses))
    return rate, mean(losses) if finite else math.inf, stdev(losses) if finite and len(losses) > 1 else 0.0
