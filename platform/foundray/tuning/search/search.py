"""The search: Ray Tune runs trials side by side, ASHA says who goes on, and a purse says how far.

A trial's folder is named after its number and its spec's fingerprint. A search that was killed begins anew with the same
trials, which tell what they found before at no cost, and goes on from there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from ray import tune
from ray.tune import Callback
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher

from foundray.cluster.causes import described
from foundray.errors import InputError
from foundray.spec import Spec
from foundray.storage import Store
from foundray.tuning.search.budget import Purse
from foundray.tuning.search.trial import ERROR, Job, Rung, run

RETRIES = 3
"""Times that a trial whose process is lost goes on in another."""
WORST = 1e30
RUNG = "rung"
"""How many of the first rung's tokens a trial has had."""
_QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # trials' folders are the state
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass
class Trial:
    """A trial as the search knows it."""

    number: int
    values: dict[str, Any]
    spec: Spec
    job: Job
    costs: tuple[float, ...]
    """FLOPs of each rung."""
    found: list[Rung] = field(default_factory=list)
    state: str = "runs"
    """`runs`, `done`, `stopped` (by ASHA), `diverged`, `unpaid` (the purse is empty) or `lost`."""
    changed: int = 0
    """Values that are not the spec's own."""
    died: int = 0
    """Times that its process died."""
    why: str = ""
    """The exception that ended its process last; empty where it was killed."""

    @property
    def folder(self) -> Store:
        return Store.at(self.job.folder)

    @property
    def horizon(self) -> int:
        """Tokens of the whole trial, which its schedule is for."""
        return self.spec.train.steps * self.spec.tokens_per_step

    @property
    def standing(self) -> str:
        """Its state, with how far a trial came that diverged, and what became of its processes."""
        times = "once" if self.died == 1 else f"{self.died} times"
        if self.state == "lost":
            return f"lost: its process died {times}" + (f", last of {self.why}" if self.why else "")
        last = self.found[-1] if self.found else None
        if self.state != "diverged" or last is None:
            told = self.state
        elif last.reached is None:
            told = f"diverged by step {last.step:,} of {self.spec.train.steps:,}"
        else:
            told = f"diverged in step {last.reached + 1:,} of {self.spec.train.steps:,}"
        return f"{told}, though its process died {times}" if self.died else told

    def score(self, metric: str) -> float:
        """At its last rung; infinite where there is none, or it diverged."""
        return getattr(self.found[-1], metric) if self.found and not self.found[-1].diverged else float("inf")

    def record(self) -> None:
        """Into its folder, before it begins: a trial is never lost."""
        facts = {"number": self.number, "values": self.values, "fingerprint": self.spec.fingerprint()}
        (self.folder / "trial.json").write_text(json.dumps(facts))


class Search:
    """Trials on their way through Ray Tune."""

    def __init__(
        self, spec: Spec, folder: Store, purse: Purse, propose: Callable[[int], Trial | None], tell: Callable[[Trial], None],
        show: Callable[[list[Trial]], None],
    ):  # fmt: skip
        """`propose` gives the k-th trial, or None where there are no more; `tell` hears of its end, `show` of every news."""
        self.spec, self.folder, self.purse = spec, folder, purse
        self.propose, self.tell, self.show = propose, tell, show
        self.trials: list[Trial] = []
        self.of: dict[str, Trial] = {}
        """By Tune's id."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune pickles all that it is given into a file that nobody reads, and what shows a search on a terminal
        cannot be pickled."""
        return {}

    def run(self, resources: dict[str, float], slots: int) -> list[Trial]:
        """Run all, as many side by side as there are slots; gives them in order."""
        bracket = {"time_attr": RUNG, "grace_period": 1, "reduction_factor": self.spec.tune.reduction}
        os.environ.update(_QUIET)
        scratch = self.folder / ".ray"  # every node must reach it; trials' own folders are the state
        tuner = tune.Tuner(
            tune.with_resources(_trainable, tune.PlacementGroupFactory([resources])),
            tune_config=tune.TuneConfig(
                metric=self.spec.tune.metric,
                mode="min",
                search_alg=ConcurrencyLimiter(Proposer(self), slots),
                scheduler=Budgeted(self, max_t=_nominal(self.spec)[-1], **bracket),
                num_samples=10**6,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=f"ray-{time.time_ns()}",
                storage_path=scratch.url,
                verbose=0,
                callbacks=[_Watcher(self)],
                failure_config=tune.FailureConfig(max_failures=RETRIES),
            ),
        )
        tuner.fit()
        with suppress(InputError):
            scratch.delete_folder()
        return self.trials

    def next(self, tune_id: str) -> Trial | None:
        """The next trial that can be paid, if there is one; those that cannot stay in the table, as `unpaid`."""
        while (trial := self.propose(number := len(self.trials))) is not None:
            self.purse.give_back(first_rung(number))
            paid = bool(trial.found) or self.purse.set_aside(str(number), trial.costs[0])
            trial.state = "runs" if paid else "unpaid"
            trial.record()
            self.trials.append(trial)
            if paid:
                self.of[tune_id] = trial
                self.show(self.trials)
                return trial
            self.show(self.trials)
        return None

    def heard(self, tune_id: str, result: dict[str, Any]) -> bool:
        """Note what was found at a rung; whether the trial can be paid for the next one."""
        trial, number = self.of[tune_id], str(self.of[tune_id].number)
        rung = Rung(**{name: result[name] for name in Rung.__dataclass_fields__})
        if rung.step not in [known.step for known in trial.found]:
            trial.found.append(rung)
            self.purse.spend(number)
        self.show(self.trials)
        after = len(trial.found)
        if rung.step < trial.found[-1].step:  # it tells again what it found in another process
            return True
        return rung.diverged or after == len(trial.costs) or self.purse.set_aside(number, trial.costs[after])

    def died(self, tune_id: str) -> None:
        """Note that a trial's process died, whether or not it goes on in another."""
        trial = self.of[tune_id]
        trial.died += 1
        trial.why = (trial.folder / ERROR).read_text() if (trial.folder / ERROR).exists() else ""

    def ended(self, tune_id: str, state: str) -> None:
        trial = self.of[tune_id]
        self.purse.give_back(str(trial.number))
        if trial.found and trial.found[-1].diverged:
            state = "diverged"
        elif len(trial.found) == len(trial.costs):
            state = "done"
        if trial.state == "runs":
            trial.state = state
        self.tell(trial)
        self.show(self.trials)


def first_rung(number: int) -> str:
    """What the first rung of a trial that is yet to begin is set aside for."""
    return f"first rung of {number}"


class Proposer(Searcher):
    """Tune's way of asking for the next trial."""

    def __init__(self, search: Search):
        super().__init__(metric=search.spec.tune.metric, mode="min")
        self.search = search

    def suggest(self, trial_id: str) -> Any:
        trial = self.search.next(trial_id)
        return {"job": trial.job, "rungs": _nominal(self.search.spec)} if trial else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if error:
            self.search.died(trial_id)
        self.search.ended(trial_id, "lost" if error else "stopped")

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class Budgeted(ASHAScheduler):
    """ASHA (Li et al. 2020) that also stops whom the purse cannot pay."""

    def __init__(self, search: Search, **bracket: Any):
        super().__init__(**bracket)
        self.search = search

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        paid = self.search.heard(trial.trial_id, result)
        action: str = super().on_trial_result(tune_controller, trial, self._finite(result))
        if action == TrialScheduler.STOP or paid:
            return action
        self.search.of[trial.trial_id].state = "unpaid"
        return TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        super().on_trial_complete(tune_controller, trial, self._finite(result))

    def _finite(self, result: dict[str, Any]) -> dict[str, Any]:
        """It takes quantiles, which infinity spoils."""
        metric = self.search.spec.tune.metric
        return result | {metric: min(result[metric], WORST)} if metric in result else result


class _Watcher(Callback):
    """Shows that time passes, and notes trials whose processes died."""

    def __init__(self, search: Search):
        self.search = search

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.search.show(self.search.trials)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.search.died(trial.trial_id)


def _trainable(config: dict[str, Any]) -> None:
    """In a worker process: one trial, or the rest of it."""
    job: Job = config["job"]
    nominal = dict(zip(job.rungs, config["rungs"], strict=True))

    def report(rung: Rung) -> None:
        tune.report(asdict(rung) | {RUNG: nominal[rung.step]})

    if (error := Store.at(job.folder) / ERROR).exists():
        error.write_text("")
    try:
        run(job, report)
    except Exception as raised:
        error.write_text(described(raised))
        raise


def _nominal(spec: Spec) -> list[int]:
    return [spec.tune.reduction**rung for rung in range(spec.tune.rungs)]
