"""The driver of a search: what it may cost, the trials, the ladder, and what becomes of both."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from foundray.cluster import connected, fit, node_resources
from foundray.data.feeder import validation_plan
from foundray.data.manifest import Prepared
from foundray.data.prepare import prepare, prepared_folder
from foundray.data.stream import plan_for
from foundray.errors import InputError, RunFailed
from foundray.holder import Holder
from foundray.spec import Model, Spec, differences, flatten
from foundray.storage import Store
from foundray.training.driver import check_fits
from foundray.training.loop import EVALUATION_BATCH
from foundray.tuning import outcome
from foundray.tuning.budget import Purse, flops
from foundray.tuning.proposals import Proposals
from foundray.tuning.proxy import at_size, ladder_of, proxy_of, space_of, with_values
from foundray.tuning.search import Search, Trial, first_rung
from foundray.tuning.table import Live, ranked
from foundray.tuning.trial import Job, results

FEWEST_STEPS = 10
"""Of a first rung, or of a ladder's shortest run."""
LADDER_LENGTHS = (0.25, 0.5, 1.0)
LADDER_UNITS = 2**18
"""Most units of the validation split that a ladder's runs are judged by."""

Report = Callable[[str], None]


def folder_of(spec: Spec) -> Store:
    """Of a spec's search."""
    return Store.at(spec.storage) / f"{spec.name}-tune"


def tune(spec: Spec, text: str, overrides: Mapping[str, Any], report: Report, show_progress: bool) -> outcome.Tuned:
    """Search, run the ladder, and write what was found; goes on where an earlier command stopped.

    `text` is the spec's file. Raises InputError or RunFailed.
    """
    Store.at(spec.storage).check_writable()
    prepared_folder(spec)
    proxy, space = proxy_of(spec), space_of(spec)
    proposals = Proposals(spec, space)
    folder = folder_of(spec)
    _check_same(folder, spec)
    with connected() as ray, Holder(folder, report):
        nodes = node_resources(ray)
        fit(proxy.scale, nodes, False, report)
        prepared = prepare(spec, report)
        check_fits(spec, prepared)
        (folder / "search.json").write_text(json.dumps(_identity(spec)))
        work = Workshop(spec, proxy, prepared, folder, nodes, report, show_progress)
        trials = work.search(proposals)
        best = ranked(trials, spec.tune.metric)[0] if trials else None
        if best is None or best.score(spec.tune.metric) == float("inf"):
            raise RunFailed(
                f"no trial came to a first result ({_states(trials)}): lower the values in tune.space, or see {folder}"
            )
        ladder = work.ladder(best.values) if spec.tune.ladder else []
        return outcome.write(spec, text, overrides, work, trials, ladder)


@dataclass
class Workshop:
    """What trials of a search share."""

    spec: Spec
    proxy: Spec
    prepared: Prepared
    folder: Store
    nodes: list[dict[str, float]]
    report: Report
    show_progress: bool

    def __post_init__(self) -> None:
        self.classes = self.prepared.manifest.vocabulary
        self.full = flops(self.spec, self.classes, self.spec.train.steps)
        """FLOPs of the full run."""
        self.allowed = self.spec.tune.budget * self.full
        pool = next(iter(self.spec.scale.all_pools.values()))
        self.resources = dict(pool.resources)
        """Of a trial: those of a worker."""
        share = [min(node.get(kind, 0.0) // amount for kind, amount in self.resources.items()) for node in self.nodes]
        self.slots = max(1, int(sum(share)))
        self.purses: list[Purse] = []

    @property
    def used(self) -> float:
        """FLOPs, of search and ladder."""
        return sum(purse.spent for purse in self.purses)

    def search(self, proposals: Proposals) -> list[Trial]:
        """Raises InputError where the budget is too small for one rung."""
        tuning = self.spec.tune
        purse = self._purse(self.allowed * (1 - tuning.ladder))
        steps = tuning.proxy.steps or self._affordable_steps(purse.allowed, proposals.trials)
        lengths = [max(1, round(steps / tuning.reduction**ahead)) for ahead in reversed(range(tuning.rungs))]
        proxy = at_size(self.proxy, self.proxy.model, lengths[-1])
        self._set_first_rungs_aside(proxy, lengths[0], proposals.trials, purse)
        size = f"width {proxy.model.width}, depth {proxy.model.depth}, {lengths[-1]:,} steps"
        share = f"{purse.allowed:.3g} FLOPs, {purse.allowed / self.full:.1%} of the full run's {self.full:.3g}"
        self.report(f"search: up to {proposals.trials} trials of {size}, {self.slots} at a time; {share}")
        known = {found["number"]: found["values"] for found in map(_read, (self.folder / "trials").children()) if found}

        def propose(number: int) -> Trial | None:
            if number >= proposals.trials:
                return None
            values = proposals.values(number, known.get(number))
            return self._trial("trials", number, values, with_values(proxy, values), lengths, tuning.judged_tokens)

        def tell(trial: Trial) -> None:
            proposals.tell(trial.number, trial.score(tuning.metric))

        return self._run(self.spec, purse, propose, tell)

    def ladder(self, values: Mapping[str, Any]) -> list[Trial]:
        """Runs of several sizes and lengths, with the values found; none where the budget is too small for them."""
        purse = self._purse(self.allowed * self.spec.tune.ladder)
        models = ladder_of(self.spec, self.proxy, self.classes)
        step, judging = (sum(self._cost(model, *of) for model in models) for of in ((1, 0), (0, LADDER_UNITS)))
        judged = min(LADDER_UNITS, self.prepared_units)
        room = purse.allowed - len(LADDER_LENGTHS) * judging * judged / LADDER_UNITS
        longest = min(self.spec.train.steps, int(room / (step * sum(LADDER_LENGTHS)))) if models else 0
        if longest * LADDER_LENGTHS[0] < FEWEST_STEPS:
            self.report("ladder: the budget is too small for one, so there is no forecast; raise tune.budget")
            return []
        specs = [
            with_values(at_size(self.spec, model, round(longest * part)), values) for model in models for part in LADDER_LENGTHS
        ]
        sizes = ", ".join(f"{model.width}x{model.depth}" for model in models)
        self.report(
            f"ladder: {len(specs)} runs of {sizes} (width x depth) and up to {longest:,} steps; {purse.allowed:.3g} FLOPs"
        )

        def propose(number: int) -> Trial | None:
            if number >= len(specs):
                return None
            spec = specs[number]
            size = {"width": spec.model.width, "depth": spec.model.depth, "steps": spec.train.steps}
            return self._trial("ladder", number, size, spec, [spec.train.steps], LADDER_UNITS)

        one_rung = self.spec.model_copy(update={"tune": self.spec.tune.model_copy(update={"rungs": 1, "metric": "val_loss"})})
        return self._run(one_rung, purse, propose, lambda trial: None)

    @property
    def prepared_units(self) -> int:
        """Of the validation split."""
        return plan_for(self.prepared, self.spec).order().validation_samples * self.spec.model.context

    def _run(
        self, spec: Spec, purse: Purse, propose: Callable[[int], Trial | None], tell: Callable[[Trial], None]
    ) -> list[Trial]:
        live = Live(spec.tune.metric, purse, self.report, self.show_progress)
        try:
            return Search(spec, purse, propose, tell, live).run(self.resources, self.slots)
        finally:
            live.close()

    def _purse(self, allowed: float) -> Purse:
        self.purses.append(Purse(allowed))
        return self.purses[-1]

    def _trial(self, kind: str, number: int, values: dict[str, Any], spec: Spec, lengths: Sequence[int], units: int) -> Trial:
        plan = plan_for(self.prepared, spec)
        size = spec.train.micro_batch_size
        judging = validation_plan(plan, size if spec.objective.build().couples else size * -(-EVALUATION_BATCH // size))
        whole = -(-plan.order().validation_samples // judging.micro_batch_size)
        some = min(whole, -(-units // (judging.micro_batch_size * spec.model.context)))
        judged = tuple(int(at) for at in np.arange(some) * whole // some)  # from all over the split
        rungs = tuple(max(1, round(length / lengths[-1] * spec.train.steps)) for length in lengths)
        folder = self.folder / kind / f"{number:04d}-{spec.fingerprint()}"
        gpu = self.resources.get("GPU", 0) > 0
        job = Job(folder.url, spec.model_dump_json(), plan, self.classes, rungs, judging, judged, gpu)
        asked = some * judging.micro_batch_size * spec.model.context
        costs = tuple(flops(spec, self.classes, end - begin, asked) for begin, end in zip((0, *rungs), rungs, strict=False))
        trial = Trial(number, values, spec, job, costs, found=[replace(r, replayed=True) for r in results(folder)])
        self.purses[-1].spent += sum(costs[: len(trial.found)])
        return trial

    def _cost(self, model: Model, steps: int, judged: int) -> float:
        return flops(at_size(self.spec, model, 1), self.classes, steps, judged)

    def _affordable_steps(self, allowed: float, trials: int) -> int:
        """Of a whole trial, so that all trials together cost about what is allowed."""
        tuning = self.spec.tune
        ends = [0.0, *(tuning.reduction**-ahead for ahead in reversed(range(tuning.rungs)))]
        arriving = _arrivals(trials, tuning.rungs, tuning.reduction)
        whole = sum(count * (end - begin) for count, begin, end in zip(arriving, ends, ends[1:], strict=False))
        room = allowed - self._cost(self.proxy.model, 0, tuning.judged_tokens) * sum(arriving)
        return min(self.spec.train.steps, max(1, int(room / (whole * self._cost(self.proxy.model, 1, 0)))))

    def _set_first_rungs_aside(self, proxy: Spec, steps: int, trials: int, purse: Purse) -> None:
        """Every trial is begun, whoever goes on. Raises InputError where the budget is too small for that."""
        cost = flops(proxy, self.classes, steps, self.spec.tune.judged_tokens)
        fits = [purse.set_aside(first_rung(number), cost) for number in range(trials)]
        if not all(fits) or (not self.spec.tune.proxy.steps and steps < FEWEST_STEPS):
            least = flops(proxy, self.classes, max(steps, FEWEST_STEPS), self.spec.tune.judged_tokens)
            raise InputError(
                f"tune.budget: {self.spec.tune.budget:g} of the full run leaves {purse.allowed:.3g} FLOPs for the search, too "
                f"little: one rung of each of {trials} trials takes {least * trials:.3g}; raise tune.budget, lower tune.trials "
                "or tune.judged_tokens, or make tune.proxy smaller"
            )


def _check_same(folder: Store, spec: Spec) -> None:
    """Raises InputError where the folder holds another search."""
    if not (folder / "search.json").exists():
        return
    there = json.loads((folder / "search.json").read_text())
    if changed := differences(there, _identity(spec)):
        raise InputError(
            f"the folder {folder} holds the search of another spec: {'; '.join(changed[:3])}; give the run another name, or "
            "delete the folder"
        )


def _identity(spec: Spec) -> dict[str, Any]:
    """What decides which trials there are and what they find."""
    return spec.identity() | flatten({"tune": spec.tune.model_dump(mode="json")})


def _arrivals(trials: float, rungs: int, reduction: int) -> list[float]:
    """How many trials come to the end of each rung, about.

    ASHA lets the j-th trial go on that comes to a rung's end if it is among the best 1 / `reduction` of those before: that
    is the first one always, and another with a chance of about 1/r + (1 - 1/r)/j.
    """
    arriving = [float(trials)]
    while len(arriving) < rungs:
        harmonic = math.log(arriving[-1]) + 0.577 if arriving[-1] > 1 else 1.0
        arriving.append(arriving[-1] / reduction + (1 - 1 / reduction) * harmonic)
    return arriving


def _read(folder: Store) -> dict[str, Any] | None:
    file = folder / "trial.json"
    found: dict[str, Any] | None = json.loads(file.read_text()) if file.exists() else None
    return found


def _states(trials: Sequence[Trial]) -> str:
    counts = {state: sum(trial.state == state for trial in trials) for state in dict.fromkeys(t.state for t in trials)}
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "the budget is too small"
