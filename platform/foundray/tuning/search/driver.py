"""The driver of a search: what it may cost, the trials, the ladder, and what becomes of both."""

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
from foundray.tuning.search.anew import check_begins_anew
from foundray.tuning.search.batches import batches_of
from foundray.tuning.search.budget import Purse
from foundray.tuning.search.carry import carried
from foundray.tuning.search.proposals import Proposals
from foundray.tuning.search.proxy import at_size, ladder_of, proxy_of, space_of, with_values
from foundray.tuning.search.rungs import Costs, Rungs, affordable, ladder
from foundray.tuning.search.search import Search, Trial, first_rung
from foundray.tuning.search.table import Live, ranked
from foundray.tuning.search.trial import job_of, results

Report = Callable[[str], None]


def folder_of(spec: Spec) -> Store:
    """Of a spec's search."""
    return Store.at(spec.storage) / f"{spec.name}-tune"


def tune(spec: Spec, text: str, overrides: Mapping[str, Any], report: Report, show_progress: bool) -> outcome.Tuned:
    """Search, run the ladder, and write what was found; goes on where an earlier command stopped.

    `text` is the spec's file. Raises InputError or RunFailed.
    """
    check_begins_anew(spec, "tune")
    Store.at(spec.storage).check_writable()
    prepared_folder(spec)
    proxy, space = proxy_of(spec), space_of(spec)
    proposals = Proposals(spec, space)
    folder = folder_of(spec)
    _check_same(folder, spec)
    with connected(report) as ray, ExitStack() as holding:
        admit(ray, spec, report)
        nodes = node_resources()
        fit(proxy.scale, nodes, False, report)
        prepared = prepare(spec, report)
        check_fits(spec, prepared)
        holding.enter_context(RunLock(folder, report))
        (folder / "search.json").write_text(json.dumps(_identity(spec)))
        work = Workshop(spec, proxy, space, prepared, folder, nodes, report, show_progress)
        trials = work.search(proposals)
        best = ranked(trials, spec.tune.metric)[0] if trials else None
        if best is None or best.score(spec.tune.metric) == float("inf"):
            raise RunFailed(
                f"no trial came to a first result ({_states(trials)}): lower the values in tune.space, or see {folder}"
            )
        return outcome.write(spec, text, overrides, work, trials, work.ladder(best))


@dataclass
class Workshop:
    """What trials of a search share."""

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
        """Of a trial: those of a worker."""
        share = [min(node.get(kind, 0.0) // amount for kind, amount in self.resources.items()) for node in self.nodes]
        self.slots = max(1, int(sum(share)))
        """Trials for which there is room."""
        if "GPU" not in self.resources:  # one more than there is room for, so that no core waits while a trial begins
            self.resources["CPU"] = self.resources.get("CPU", 1.0) * self.slots / (self.slots + 1)
        self.own = flatten(self.spec.model_dump(mode="json"))
        self.batches = batches_of(self.spec, self.space)
        self.purses: list[Purse] = []
        self.ladder_models = ladder_of(self.spec, self.proxy, self.classes)
        self.ladder_rungs: Rungs | None = None
        if self.spec.tune.ladder and self.ladder_models:
            costs = self._costs(self.ladder_models)
            self.ladder_rungs = ladder(self.spec.train.steps, costs, self.allowed * self.spec.tune.ladder, self.batches)
        self.search_share = 1 - self.spec.tune.ladder if self.ladder_rungs else 1.0
        """Of the budget; all of it, where it is too small for a ladder."""
        self.not_begun = 0
        """Trials that the spec asks for, and the budget cannot pay."""

    @property
    def used(self) -> float:
        """FLOPs, of search and ladder."""
        return sum(purse.spent for purse in self.purses)

    def search(self, proposals: Proposals) -> list[Trial]:
        """Raises InputError where the budget is too small for one rung."""
        tuning = self.spec.tune
        purse = self._purse(self.allowed * self.search_share)
        costs = self._costs([self.proxy.model])
        rungs = affordable(tuning, proposals.trials, self.spec.train.steps, costs, purse.allowed, self.batches)
        self.not_begun = proposals.trials - rungs.trials
        proxy = at_size(self.proxy, self.proxy.model, rungs.lengths[-1])
        for number in range(rungs.trials):  # every trial is begun, whoever goes on
            purse.set_aside(first_rung(number), costs.first_rung(rungs))
        size = f"width {proxy.model.width}, depth {proxy.model.depth}, {rungs.lengths[-1]:,} steps"
        share = f"{purse.allowed:.3g} FLOPs, {purse.allowed / self.full:.1%} of the full run's {self.full:.3g}"
        self.report(f"search: {rungs.trials} trials of up to {size}, {self.slots} at a time; {share}")
        known = {found["number"]: found["values"] for found in map(_read, (self.folder / "trials").children()) if found}

        def propose(number: int) -> Trial | None:
            if number >= rungs.trials:
                return None
            values = proposals.values(number, known.get(number))
            return self._trial("trials", number, values, with_values(proxy, values), rungs)

        def tell(trial: Trial) -> None:
            proposals.tell(trial.number, trial.score(tuning.metric))

        return self._run(self.spec, purse, propose, tell)

    def ladder(self, best: Trial) -> list[Trial]:
        """Runs of several sizes and lengths, with the best trial's values; none where the budget is too small for them."""
        models, rungs = self.ladder_models, self.ladder_rungs
        if rungs is None:
            return []
        purse = self._purse(self.allowed - self.used)  # its share, and what the search left
        sizes = ", ".join(f"{model.width}x{model.depth}" for model in models)
        what = f"{len(models) * rungs.trials} runs of {sizes} (width x depth)"
        self.report(f"ladder: {what}, {rungs.lengths[0]:,} to {rungs.lengths[-1]:,} steps; {purse.allowed:.3g} FLOPs")
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
        return self._run(one_rung, purse, propose, lambda trial: None)

    def _run(
        self, spec: Spec, purse: Purse, propose: Callable[[int], Trial | None], tell: Callable[[Trial], None]
    ) -> list[Trial]:
        live = Live(spec.tune.metric, purse, self.report, self.show_progress)
        try:
            return Search(spec, self.folder, purse, propose, tell, live).run(self.resources, self.slots + 1)
        finally:
            live.close()

    def _purse(self, allowed: float) -> Purse:
        self.purses.append(Purse(allowed))
        return self.purses[-1]

    def _trial(self, kind: str, number: int, values: dict[str, Any], spec: Spec, rungs: Rungs) -> Trial:
        folder = self.folder / kind / f"{number:04d}-{spec.fingerprint()}"
        steps = [max(1, round(length / rungs.lengths[-1] * spec.train.steps)) for length in rungs.lengths]
        job = job_of(folder, spec, self.prepared, steps, rungs.judged, self.resources.get("GPU", 0) > 0)
        parts = zip((0, *steps), steps, strict=False)
        costs = tuple(flops(spec, self.classes, end - begin, rungs.judged) for begin, end in parts)
        found = [replace(rung, replayed=True) for rung in results(folder)]
        changed = sum(self.own.get(name) != value for name, value in values.items())
        trial = Trial(number, values, spec, job, costs, found, changed=changed)
        self.purses[-1].spent += sum(costs[: len(trial.found)])
        return trial

    def _costs(self, models: Sequence[ModelConfig]) -> Costs:
        """Of all of them together."""
        sizes = [at_size(self.spec, model, 1) for model in models]
        step, judging = (sum(flops(size, self.classes, *of) for size in sizes) for of in ((1, 0), (0, 1)))
        return Costs(step, judging, self.spec.tokens_per_step)


def _check_same(folder: Store, spec: Spec) -> None:
    """Raises InputError where the folder holds another search, or one by other rules of computing."""
    if not (folder / "search.json").exists():
        return
    there = json.loads((folder / "search.json").read_text())
    prefix = "arithmetic."
    numbers = {name.removeprefix(prefix): number for name, number in there.items() if name.startswith(prefix)}
    if begun := differing(numbers, spec):
        raise InputError(
            f"the search in {folder} was begun with {begun}, so its trials would not compare: finish it with the Foundray that "
            "began it, or give the run another name"
        )
    if changed := differences(there, _identity(spec)):
        raise InputError(
            f"the folder {folder} holds the search of another spec: {'; '.join(changed[:3])}; give the run another name, or "
            "delete the folder"
        )


def _identity(spec: Spec) -> dict[str, Any]:
    """What decides which trials there are and what they find."""
    return spec.identity() | flatten({"tune": spec.tune.model_dump(mode="json")})


def _read(folder: Store) -> dict[str, Any] | None:
    file = folder / "trial.json"
    found: dict[str, Any] | None = json.loads(file.read_text()) if file.exists() else None
    return found


def _states(trials: Sequence[Trial]) -> str:
    counts = {state: sum(trial.state == state for trial in trials) for state in dict.fromkeys(t.state for t in trials)}
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "the budget is too small"
