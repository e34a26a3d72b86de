"""The driver of a search: its budget, its trials, its ladder and its results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from foundray.cluster.connect import connected, fit, node_resources
from foundray.data.prepare.manifest import Prepared
from foundray.data.prepare.prepare import prepare
from foundray.data.prepare.recipe import prepared_folder
from foundray.errors import InputError, RunFailed
from foundray.model.flops import flops
from foundray.preflight.admission import admit
from foundray.runs.lock import RunLock
from foundray.spec import ModelConfig, RangeConfig, Spec, differences, flatten
from foundray.spec.arithmetic import differing
from foundray.storage import Store
from foundray.training.driver import check_fits
from foundray.tuning.search import outcome
from foundray.tuning.search.batches import batches_of
from foundray.tuning.search.budget import FlopBudget
from foundray.tuning.search.carry import carried
from foundray.tuning.search.from_scratch import check_from_scratch
from foundray.tuning.search.proposals import Proposals
from foundray.tuning.search.proxy import at_size, ladder_of, proxy_of, space_of, with_values
from foundray.tuning.search.rungs import Costs, Rungs, affordable, ladder, planned, smallest_budget
from foundray.tuning.search.search import Search, Trial, first_rung
from foundray.tuning.search.table import Live, ranked
from foundray.tuning.search.trial import job_of, results

Report = Callable[[str], None]


def folder_of(spec: Spec) -> Store:
    """Folder of a spec's search."""
    return Store.at(spec.storage) / f"{spec.name}-tune"


def tune(spec: Spec, text: str, overrides: Mapping[str, Any], report: Report, show_progress: bool) -> outcome.Tuned:
    """Search, run the ladder and write the results; continues where an earlier command stopped.

    `text` is the content of the spec's file. Raises InputError or RunFailed.
    """
    # Check all that can be checked without a cluster.
    check_from_scratch(spec, "tune")
    Store.at(spec.storage).check_writable()
    prepared_folder(spec)
    proxy, space = proxy_of(spec), space_of(spec)
    proposals = Proposals(spec, space)
    folder = folder_of(spec)
    _check_same(folder, spec)
    with connected(report) as ray, ExitStack() as locks:
        # Check that a trial fits on a node and the data fit the model; then lock the folder.
        admit(ray, spec, report)
        nodes = node_resources()
        fit(proxy.scale, nodes, False, report)
        prepared = prepare(spec, report)
        check_fits(spec, prepared)
        locks.enter_context(RunLock(folder, report))
        # Search, then train the ladder with the best trial's values.
        work = SearchRun(spec, proxy, space, prepared, folder, nodes, report, show_progress)
        trials = work.search(proposals)
        best = ranked(trials, spec.tune.metric)[0] if trials else None
        if best is None or best.score(spec.tune.metric) == float("inf"):
            raise RunFailed(
                f"no trial reached a first result ({_states(trials)}): lower the values in tune.space, or see {folder}"
            )
        return outcome.write(spec, text, overrides, work, trials, work.ladder(best))


@dataclass
class SearchRun:
    """One search and its ladder: what their trials share."""

    spec: Spec
    proxy: Spec
    space: Mapping[str, RangeConfig]
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
        """Resources of a trial: those of a worker."""
        fitting = [min(node.get(kind, 0.0) // amount for kind, amount in self.resources.items()) for node in self.nodes]
        self.slots = max(1, int(sum(fitting)))
        """Trials that fit on the cluster at a time."""
        if "GPU" not in self.resources:  # shrink trials so that one more fits: no core idles while a trial starts
            self.resources["CPU"] = self.resources.get("CPU", 1.0) * self.slots / (self.slots + 1)
        self.own = flatten(self.spec.model_dump(mode="json"))
        self.batches = batches_of(self.spec, self.space)
        self.budgets: list[FlopBudget] = []
        self.ladder_models = ladder_of(self.spec, self.proxy, self.classes)
        self.ladder_costs = self._costs(self.ladder_models)
        self.ladder_rungs = self._ladder_rungs(self.spec.tune.budget)
        self.not_begun = 0
        """Trials that the spec asks for but the budget cannot pay for."""
        self.enough: float | None = None
        """The smallest `tune.budget` that pays for these, too."""

    @property
    def used(self) -> float:
        """FLOPs used by search and ladder."""
        return sum(budget.used for budget in self.budgets)

    def _ladder_rungs(self, budget: float) -> Rungs | None:
        """Lengths of the ladder's runs by a `tune.budget`; None if there is no ladder, or it is too small for one."""
        share = budget * self.full * self.spec.tune.ladder
        return ladder(self.spec.train.steps, self.ladder_costs, share, self.batches) if share and self.ladder_models else None

    def _for_search(self, budget: float) -> float:
        """FLOPs that a `tune.budget` leaves for the search: all of them if it is too small for a ladder."""
        return budget * self.full * (1 - self.spec.tune.ladder if self._ladder_rungs(budget) else 1.0)

    def why_no_ladder(self) -> str:
        """Why there is no ladder, and what would be enough for one."""
        if not self.spec.tune.ladder:
            return "tune.ladder is 0"
        if not self.ladder_models:
            return "the proxy has more than half of the run's parameters: make tune.proxy smaller"
        enough = smallest_budget(self.spec.tune.budget, lambda budget: self._ladder_rungs(budget) is not None)
        if enough is None:
            return f"train.steps: {self.spec.train.steps:,} are too few for a ladder of shorter runs"
        return f"the budget is too small for a ladder of runs; raise tune.budget to {enough:g}"

    def search(self, proposals: Proposals) -> list[Trial]:
        """Run the trials. Raises InputError if the budget is too small for one rung."""
        tuning = self.spec.tune
        # Plan: how many trials of what length the budget pays for.
        budget, leaves = self._budget(self._for_search(tuning.budget)), self._for_search
        wanted, longest, costs = proposals.trials, self.spec.train.steps, self._costs([self.proxy.model])
        rungs = affordable(tuning, wanted, longest, costs, budget.allowed, self.batches, leaves)
        self.not_begun = wanted - rungs.trials
        if self.not_begun:
            self.enough = smallest_budget(tuning.budget, lambda more: self._pays_for(wanted, costs, leaves(more)))
        (self.folder / "search.json").write_text(json.dumps(_identity(self.spec)))  # not before: what is refused is no search
        proxy = at_size(self.proxy, self.proxy.model, rungs.lengths[-1])
        for number in range(rungs.trials):  # every trial gets its first rung, however many are promoted
            budget.reserve(first_rung(number), costs.first_rung(rungs))
        size = f"width {proxy.model.width}, depth {proxy.model.depth}, {rungs.lengths[-1]:,} steps"
        share = f"{budget.allowed:.3g} FLOPs, {budget.allowed / self.full:.1%} of the full run's {self.full:.3g}"
        self.report(f"search: {rungs.trials} trials of up to {size}, {self.slots} at a time; {share}")
        # Trials of an earlier command keep their values.
        read = map(_read, (self.folder / "trials").children())
        earlier = {facts["number"]: facts["values"] for facts in read if facts}

        def propose(number: int) -> Trial | None:
            if number >= rungs.trials:
                return None
            values = proposals.values(number, earlier.get(number))
            return self._trial("trials", number, values, with_values(proxy, values), rungs)

        def tell(trial: Trial) -> None:
            proposals.tell(trial.number, trial.score(tuning.metric))

        return self._run(self.spec, budget, propose, tell)

    def _pays_for(self, trials: int, costs: Costs, allowed: float) -> bool:
        """Whether these FLOPs pay for that many trials."""
        found = planned(self.spec.tune, trials, self.spec.train.steps, costs, allowed, self.batches)
        return found is not None and found.trials == trials

    def ladder(self, best: Trial) -> list[Trial]:
        """Train runs of several sizes and lengths with the best trial's values; none if the budget is too small for them."""
        models, rungs = self.ladder_models, self.ladder_rungs
        if rungs is None:
            return []
        budget = self._budget(self.allowed - self.used)  # its own share plus what the search left over
        sizes = ", ".join(f"{model.width}x{model.depth}" for model in models)
        what = f"{len(models) * rungs.trials} runs of {sizes} (width x depth)"
        self.report(f"ladder: {what}, {rungs.lengths[0]:,} to {rungs.lengths[-1]:,} steps; {budget.allowed:.3g} FLOPs")
        specs = []
        for model in models:
            for steps in rungs.lengths:
                size = at_size(self.spec, model, steps)
                trained = with_values(size, best.values)
                values = carried(best.values, size, best.horizon, trained.train.steps * trained.tokens_per_step)
                specs.append(with_values(size, values))

        def propose(number: int) -> Trial | None:
            if number >= len(specs):
                return None
            spec = specs[number]
            size = {"width": spec.model.width, "depth": spec.model.depth, "steps": spec.train.steps}
            return self._trial("ladder", number, size, spec, replace(rungs, lengths=(spec.train.steps,)))

        one_rung = self.spec.model_copy(update={"tune": self.spec.tune.model_copy(update={"rungs": 1, "metric": "val_loss"})})
        return self._run(one_rung, budget, propose, lambda trial: None)

    def _run(
        self, spec: Spec, budget: FlopBudget, propose: Callable[[int], Trial | None], tell: Callable[[Trial], None]
    ) -> list[Trial]:
        live = Live(spec.tune.metric, budget, self.report, self.show_progress)
        try:
            return Search(spec, self.folder, budget, propose, tell, live).run(self.resources, self.slots + 1)
        finally:
            live.close()

    def _budget(self, allowed: float) -> FlopBudget:
        self.budgets.append(FlopBudget(allowed))
        return self.budgets[-1]

    def _trial(self, kind: str, number: int, values: dict[str, Any], spec: Spec, rungs: Rungs) -> Trial:
        folder = self.folder / kind / f"{number:04d}-{spec.fingerprint()}"
        steps = [max(1, round(length / rungs.lengths[-1] * spec.train.steps)) for length in rungs.lengths]
        job = job_of(folder, spec, self.prepared, steps, rungs.validation_units, self.resources.get("GPU", 0) > 0)
        parts = zip((0, *steps), steps, strict=False)
        costs = tuple(flops(spec, self.classes, end - begin, rungs.validation_units) for begin, end in parts)
        earlier = [replace(rung, replayed=True) for rung in results(folder)]
        changed = sum(self.own.get(name) != value for name, value in values.items())
        trial = Trial(number, values, spec, job, costs, earlier, changed=changed)
        self.budgets[-1].used += sum(costs[: len(trial.results)])
        return trial

    def _costs(self, models: Sequence[ModelConfig]) -> Costs:
        """Summed costs of the models."""
        sizes = [at_size(self.spec, model, 1) for model in models]
        step, validation_unit = (sum(flops(size, self.classes, *part) for size in sizes) for part in ((1, 0), (0, 1)))
        return Costs(step, validation_unit, self.spec.tokens_per_step)


def _check_same(folder: Store, spec: Spec) -> None:
    """Raises InputError if the folder holds another search, or one that began with other arithmetic."""
    if not (folder / "search.json").exists():
        return
    stored = json.loads((folder / "search.json").read_text())
    prefix = "arithmetic."
    numbers = {name.removeprefix(prefix): number for name, number in stored.items() if name.startswith(prefix)}
    if other_arithmetic := differing(numbers, spec):
        raise InputError(
            f"the search in {folder} was begun with {other_arithmetic}, so its trials would not compare: finish it with the "
            "Foundray that began it, or give the run another name"
        )
    if changed := differences(stored, _identity(spec)):
        raise InputError(
            f"the folder {folder} holds the search of another spec: {'; '.join(changed[:3])}; give the run another name, or "
            "delete the folder"
        )


def _identity(spec: Spec) -> dict[str, Any]:
    """Fields that determine the trials and their results."""
    return spec.identity() | flatten({"tune": spec.tune.model_dump(mode="json")})


def _read(folder: Store) -> dict[str, Any] | None:
    file = folder / "trial.json"
    content: dict[str, Any] | None = json.loads(file.read_text()) if file.exists() else None
    return content


def _states(trials: Sequence[Trial]) -> str:
    counts = {state: sum(trial.state == state for trial in trials) for state in dict.fromkeys(t.state for t in trials)}
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "the budget is too small"
