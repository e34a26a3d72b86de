"""`coordcheck`: the coordinate check of a spec, on its own data, under CompleteP and under the standard parametrisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from foundray.cluster.connect import connected
from foundray.data.prepare.prepare import prepare
from foundray.data.prepare.recipe import prepared_folder
from foundray.data.stream.plan import plan_for, read_micro_batches
from foundray.errors import InputError
from foundray.spec import ModelConfig, ScheduleConfig, Spec
from foundray.storage import Store
from foundray.training.driver import check_fits
from foundray.tuning import pictures
from foundray.tuning.search.from_scratch import check_from_scratch
from foundray.tuning.search.proxy import at_size, proxy_of
from foundray.tuning.search.table import aligned
from foundray.tuning.transfer.coordinates import Coordinates, check
from foundray.wording.shown import Shown

COMPLETEP, STANDARD = "CompleteP", "standard"
TIMES = (1, 2, 4, 8)
"""Default widths, as multiples of the proxies' width."""


@dataclass(frozen=True)
class CoordinateCheck(Shown):
    over: str
    """`width` or `depth`."""
    steps: int
    found: dict[str, Coordinates]
    """Coordinates by parametrisation."""
    picture: str
    """URL of the figure."""

    @property
    def steady(self) -> bool:
        return self.found[COMPLETEP].steady

    def table(self) -> str:
        """Table for people: each part's change at each size, and the power of the size that it grows with."""
        sizes = self.found[COMPLETEP].sizes
        rows = [["parametrisation", "part", *(f"{self.over} {size}" for size in sizes), "grows as"]]
        for title, coordinates in self.found.items():
            powers = coordinates.exponents()
            for part, changes in coordinates.changes.items():
                rows.append([title, part, *(f"{of_size[-1]:.3g}" for of_size in changes), f"{self.over}^{powers[part]:+.2f}"])
        title = f"change of activations in {self.steps} steps (root mean square)"
        return f"{title}\n{aligned(rows)}\n{self._verdict()}\npicture: {self.picture}"

    def _verdict(self) -> str:
        if self.over == "depth":
            return "no verdict over depths: a few steps are not enough for one"
        if self.steady:
            return "steady: hyperparameters found at one width are right for the others"
        return "not steady under CompleteP: hyperparameters found at one width do not transfer to the others"

    def to_dict(self) -> dict[str, Any]:
        found = {title: coordinates.to_dict() for title, coordinates in self.found.items()}
        return {"over": self.over, "steps": self.steps, "steady": self.steady, "found": found, "picture": self.picture}


def coordcheck(
    spec: Spec, widths: Sequence[int], depths: Sequence[int], steps: int, report: Callable[[str], None]
) -> CoordinateCheck:
    """Check a spec over widths, or over `depths` if any are given. Raises InputError."""
    # Choose the sizes, and read a few steps of data.
    check_from_scratch(spec, "coordcheck")
    over = "depth" if depths else "width"
    proxy = proxy_of(spec)
    models = _models(proxy.model, widths, depths)
    prepared_folder(spec)
    with connected(report):
        prepared = prepare(spec, report)
    check_fits(spec, prepared)
    plan, per_step = plan_for(prepared, spec), spec.train.micro_batches
    micro_batches = [list(read_micro_batches(plan, step * per_step, per_step)) for step in range(steps)]
    # Train every size under both parametrisations, at a constant learning rate.
    flat = ScheduleConfig(kind="constant", warmup=0.0)
    found = {}
    for title, base in ((COMPLETEP, {}), (STANDARD, {"base_width": None, "base_depth": None})):
        specs = [
            (getattr(model, over), at_size(spec, model.model_copy(update=base), steps).model_copy(update={"schedule": flat}))
            for model in models
        ]
        found[title] = check(specs, prepared.manifest.vocabulary, micro_batches)
    # Draw the changes.
    curves = {
        title: {part: dict(zip(of.sizes, changes, strict=True)) for part, changes in of.changes.items()}
        for title, of in found.items()
    }
    file = Store.at(spec.storage) / f"{spec.name}-coordcheck" / f"{over}s.svg"
    figure = pictures.coordinate_check(curves, over)
    pictures.save(figure, file)
    pictures.show(file.parent / "tensorboard", {f"coordinate-check-{over}s": figure})
    return CoordinateCheck(over, steps, found, file.url)


def _models(smallest: ModelConfig, widths: Sequence[int], depths: Sequence[int]) -> list[ModelConfig]:
    """Models of the sizes to compare. Raises InputError for an impossible size, or fewer than two."""
    if len(sizes := sorted(set(depths or widths or (smallest.width * times for times in TIMES)))) < 2:
        raise InputError("coordcheck compares sizes: name two or more, such as --widths 64 128 256")
    if depths:
        return [smallest.model_copy(update={"depth": depth}) for depth in sizes]
    try:
        return [smallest.of_width(width) for width in sizes]
    except ValueError as error:
        raise InputError(f"--widths: {error}") from None
