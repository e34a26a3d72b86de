"""The search: Ray Tune runs trials side by side, ASHA decides which continue, and a FLOP budget limits them.

A trial's folder is named after its number and its spec's fingerprint. A search that was killed starts again with the same
trials, which replay their earlier results at no cost, and continues from there.
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
from foundray.tuning.search.budget import FlopBudget
from foundray.tuning.search.trial import ERROR, Job, RungResult, run

RETRIES = 3
"""Times that a trial continues in another process after losing its own."""
WORST = 1e30
"""Finite score of a diverged trial, for ASHA's quantiles."""
RUNG = "rung"
"""A trial's tokens as a multiple of the first rung's."""
_QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # trials' folders are the state
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass
class Trial:
    """One trial in the driver."""

    number: int
    values: dict[str, Any]
    spec: Spec
    job: Job
    costs: tuple[float, ...]
    """FLOPs of each rung."""
    results: list[RungResult] = field(default_factory=list)
    state: str = "runs"
    """`runs`, `done`, `stopped` (by ASHA), `diverged`, `unpaid` (the budget is used up) or `lost`."""
    changed: int = 0
    """Number of values that differ from the spec's own."""
    died: int = 0
    """Number of times its process died."""
    why: str = ""
    """The exception that last ended its process; empty if it was killed."""

    @property
    def folder(self) -> Store:
        return Store.at(self.job.folder)

    @property
    def horizon(self) -> int:
        """Tokens of the complete trial, for which its schedule is made."""
        return self.spec.train.steps * self.spec.tokens_per_step

    @property
    def standing(self) -> str:
        """The state in words: where a trial diverged, and how often its process died."""
        times = "once" if self.died == 1 else f"{self.died} times"
        if self.state == "lost":
            return f"lost: its process died {times}" + (f", last of {self.why}" if self.why else "")
        last = self.results[-1] if self.results else None
        if self.state == "stopped":
            text = "stopped by the search"
        elif self.state != "diverged" or last is None:
            text = self.state
        elif last.reached is None:
            text = f"diverged by step {last.step:,} of {self.spec.train.steps:,}"
        else:
            text = f"diverged in step {last.reached + 1:,} of {self.spec.train.steps:,}"
        return f"{text}, though its process died {times}" if self.died else text

    def score(self, metric: str) -> float:
        """The metric at the last rung; infinite if there is none or the trial diverged."""
        return getattr(self.results[-1], metric) if self.results and not self.results[-1].diverged else float("inf")

    def record(self) -> None:
        """Write the trial into its folder before it starts, so that it is never lost."""
        facts = {"number": self.number, "values": self.values, "fingerprint": self.spec.fingerprint()}
        (self.folder / "trial.json").write_text(json.dumps(facts))


class Search:
    """The trials in Ray Tune, and the FLOP budget that pays for them."""

    def __init__(
        self, spec: Spec, folder: Store, budget: FlopBudget, propose: Callable[[int], Trial | None],
        tell: Callable[[Trial], None], show: Callable[[list[Trial]], None],
    ):  # fmt: skip
        """`propose` returns the k-th trial, or None after the last; `tell` is called as a trial ends, `show` on any change."""
        self.spec, self.folder, self.budget = spec, folder, budget
        self.propose, self.tell, self.show = propose, tell, show
        self.trials: list[Trial] = []
        self.by_tune_id: dict[str, Trial] = {}
        """Trials by Tune's id."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune pickles its arguments into a file that nobody reads, and a live terminal cannot be pickled."""
        return {}

    def run(self, resources: dict[str, float], slots: int) -> list[Trial]:
        """Run all trials, up to `slots` at a time; returns them in order."""
        bracket = {"time_attr": RUNG, "grace_period": 1, "reduction_factor": self.spec.tune.reduction}
        os.environ.update(_QUIET)
        scratch = self.folder / ".ray"  # on storage that every node reaches; the state is in the trials' own folders
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
        self.end()
        with suppress(InputError):
            scratch.delete_folder()
        return self.trials

    def end(self) -> None:
        """End what has not ended by itself: once Ray Tune has returned, no trial runs."""
        for tune_id, trial in self.by_tune_id.items():
            if trial.state == "runs":
                self.on_end(tune_id, "stopped")

    def next_trial(self, tune_id: str) -> Trial | None:
        """The next trial that the budget pays for, or None; skipped ones stay in the table as `unpaid`."""
        while (trial := self.propose(number := len(self.trials))) is not None:
            self.budget.release(first_rung(number))
            paid = bool(trial.results) or self.budget.reserve(str(number), trial.costs[0])
            trial.state = "runs" if paid else "unpaid"
            trial.record()
            self.trials.append(trial)
            if paid:
                self.by_tune_id[tune_id] = trial
                self.show(self.trials)
                return trial
            self.show(self.trials)
        return None

    def on_result(self, tune_id: str, result: dict[str, Any]) -> bool:
        """Note the result of a rung; whether the budget pays for the trial's next one."""
        # Note the rung, and count its FLOPs as used, unless it is a replay.
        trial, number = self.by_tune_id[tune_id], str(self.by_tune_id[tune_id].number)
        rung = RungResult(**{name: result[name] for name in RungResult.__dataclass_fields__})
        if rung.step not in [known.step for known in trial.results]:
            trial.results.append(rung)
            self.budget.commit(number)
        self.show(self.trials)
        # Reserve FLOPs for the next rung.
        after = len(trial.results)
        if rung.step < trial.results[-1].step:  # another process replays its earlier rungs
            return True
        return rung.diverged or after == len(trial.costs) or self.budget.reserve(number, trial.costs[after])

    def on_process_died(self, tune_id: str) -> None:
        """Note that a trial's process died, whether or not the trial continues in another."""
        trial = self.by_tune_id[tune_id]
        trial.died += 1
        trial.why = (trial.folder / ERROR).read_text() if (trial.folder / ERROR).exists() else ""

    def on_end(self, tune_id: str, state: str) -> None:
        """Release the trial's reservation and set its final state, `state` unless its results say otherwise."""
        trial = self.by_tune_id[tune_id]
        self.budget.release(str(trial.number))
        if trial.results and trial.results[-1].diverged:
            state = "diverged"
        elif len(trial.results) == len(trial.costs):
            state = "done"
        if trial.state == "runs":
            trial.state = state
        self.tell(trial)
        self.show(self.trials)


def first_rung(number: int) -> str:
    """Name of the reservation for the first rung of a trial that has not started."""
    return f"first rung of {number}"


class Proposer(Searcher):
    """The search as Ray Tune's searcher."""

    def __init__(self, search: Search):
        super().__init__(metric=search.spec.tune.metric, mode="min")
        self.search = search

    def suggest(self, trial_id: str) -> Any:
        trial = self.search.next_trial(trial_id)
        return {"job": trial.job, "rungs": _nominal(self.search.spec)} if trial else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if error:
            self.search.on_process_died(trial_id)
        self.search.on_end(trial_id, "lost" if error else "stopped")

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class Budgeted(ASHAScheduler):
    """ASHA (Li et al. 2020) that also stops trials that the budget cannot pay for."""

    def __init__(self, search: Search, **bracket: Any):
        super().__init__(**bracket)
        self.search = search

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        paid = self.search.on_result(trial.trial_id, result)
        action: str = super().on_trial_result(tune_controller, trial, self._finite(result))
        if action == TrialScheduler.STOP or paid:
            return action
        self.search.by_tune_id[trial.trial_id].state = "unpaid"
        return TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        super().on_trial_complete(tune_controller, trial, self._finite(result))

    def _finite(self, result: dict[str, Any]) -> dict[str, Any]:
        """The result with a finite metric: ASHA takes quantiles, which infinity would spoil."""
        metric = self.search.spec.tune.metric
        return result | {metric: min(result[metric], WORST)} if metric in result else result


class _Watcher(Callback):
    """Updates the display, and notes trials whose processes died."""

    def __init__(self, search: Search):
        self.search = search

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.search.show(self.search.trials)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.search.on_process_died(trial.trial_id)


def _trainable(config: dict[str, Any]) -> None:
    """Run one trial, or the rest of it, in a worker process."""
    job: Job = config["job"]
    nominal = dict(zip(job.rungs, config["rungs"], strict=True))

    def report(rung: RungResult) -> None:
        tune.report(asdict(rung) | {RUNG: nominal[rung.step]})

    if (error := Store.at(job.folder) / ERROR).exists():
        error.write_text("")
    try:
        run(job, report)
    except Exception as raised:
        error.write_text(described(raised))
        raise


def _nominal(spec: Spec) -> list[int]:
    """The end of each rung as a multiple of the first rung, for ASHA."""
    return [spec.tune.reduction**rung for rung in range(spec.tune.rungs)]
