"""Searching small: proxies, spaces, proposals, the FLOP budget, trials, and the tuned spec."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

import foundray
from foundray.errors import InputError
from foundray.model.flops import flops, parameters_of
from foundray.spec import RangeConfig, Spec, TuneConfig
from foundray.spec.loading import parse_spec
from foundray.spec.running import GuardConfig
from foundray.storage import Store
from foundray.testing.preparing import prepare_here
from foundray.testing.specs import small_spec, write_spec
from foundray.tuning.search.batches import Batches, batches_of
from foundray.tuning.search.budget import FlopBudget
from foundray.tuning.search.carry import tuned_yaml
from foundray.tuning.search.proposals import Proposals
from foundray.tuning.search.proxy import default_space, ladder_of, proxy_of, space_of, with_values
from foundray.tuning.search.rungs import Costs, affordable, arrivals, planned, smallest_budget
from foundray.tuning.search.search import Proposer, Search, Trial, _trainable, _Watcher
from foundray.tuning.search.table import _line, aligned, ranked, rows
from foundray.tuning.search.trial import STATE, Job, RungResult, job_of, results, run
from foundray.tuning.search.usage import usage

CLASSES = 257
LR = {"optimizer.lr": {"log_uniform": [1e-3, 1e-1]}}


def make_spec(prose: Path, storage: Path, **changes: Any) -> Spec:
    fields = {"model": {"width": 64, "depth": 4, "heads": 4, "context": 32}, "train__steps": 90, **changes}
    return parse_spec(yaml.safe_dump(small_spec(prose, storage, **fields)), "test")


@pytest.fixture(scope="module")
def job(prose: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Job of a proxy's trial on prepared data."""
    storage = tmp_path_factory.mktemp("storage")
    spec = make_spec(prose, storage)
    proxy = with_values(proxy_of(spec), {"train.steps": 9})
    return job_of(Store.at(storage / "trial"), proxy, prepare_here(spec), (1, 3, 9), 1024)


def rung(step: int, loss: float, began: float = 0.0, ended: float = 0.0, stepping: float = 0.0) -> RungResult:
    return RungResult(step, step * 320, loss, loss, began, ended, stepping, 0.0)


def trial(number: int, spec: Spec, *found: RungResult, state: str = "done") -> Trial:
    job: Any = None
    return Trial(number, {"optimizer.lr": 0.1 * (number + 1)}, spec, job, (1.0, 1.0), list(found), state)


def test_proxies_are_a_quarter_as_wide_and_half_as_deep(prose: Path, tmp_path: Path) -> None:
    spec = make_spec(prose, tmp_path)
    proxy = proxy_of(spec)
    assert (proxy.model.width, proxy.model.depth, proxy.model.heads) == (16, 2, 1)
    assert (proxy.model.base_width, proxy.model.base_depth) == (16, 2)
    assert (proxy.model.width_mult, proxy.model.depth_mult) == (1, 1)
    assert proxy.samples_per_step == spec.samples_per_step and proxy.model.context == spec.model.context
    based = make_spec(prose, tmp_path, model__base_width=32, model__base_depth=4)
    assert (proxy_of(based).model.width, proxy_of(based).model.depth) == (32, 4)
    smaller = make_spec(prose, tmp_path, model__base_width=32, tune={"proxy": {"width": 16}})
    assert (proxy_of(smaller).model.width, proxy_of(smaller).model.base_width) == (16, 32)


@pytest.mark.parametrize(
    ("tuning", "sentence"),
    [
        ({"proxy": {"width": 128}}, "a proxy of width 128 and depth 2 is larger than the run's model, of width 64 and depth 4"),
        ({"proxy": {"width": 24}}, "tune.proxy.width: heads keep their size, 16"),
        ({"space": {"optimizer.rate": {"choice": [1]}}}, "optimizer.rate is not a field of the spec that can vary"),
        ({"space": {"optimiser.lr": {"choice": [1]}}}, "optimiser.lr is not a field .*did you mean 'optimizer.lr'"),
        ({"space": {"scale.threads": {"choice": [1]}}}, "scale.threads never changes the result"),
        ({"space": {"model.width": {"choice": [16]}}}, "model.width cannot vary: tune.proxy sets a proxy's size"),
        ({"space": {"train.steps": {"choice": [9]}}}, "train.steps cannot vary: the horizon does not transfer"),
        (
            {"space": {"data.tokenizer.kind": {"choice": ["char"]}}},
            "data.tokenizer.kind cannot vary: it changes the prepared",
        ),
        (
            {"space": {"objective.kind": {"choice": ["masked_token"]}}},
            "objective.kind cannot vary: losses of different",
        ),
        ({"space": {"optimizer.lr": {"uniform": [-1, 1]}}}, "optimizer.lr: input should be greater than 0"),
        ({"space": {"optimizer.lr": {"uniform": [2, 1]}}}, "the lower bound comes first"),
        ({"space": {"optimizer.lr": {"uniform": [1, 2], "choice": [1]}}}, "give one of log_uniform"),
        ({"space": LR, "sampler": "grid"}, "tune.space.optimizer.lr: a grid needs choices"),
        ({"metric": "accuracy"}, "tune.metric: input should be 'val_loss' or 'loss' .*'accuracy'"),
        ({"sampler": "grid", "trials": 3, "space": {"optimizer.lr": {"choice": [1, 2, 3, 4]}}}, "the grid has 4 combinations"),
    ],
)
def test_a_search_that_cannot_be_is_one_sentence(tuning: Any, sentence: str, prose: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        spec = make_spec(prose, tmp_path, tune=tuning)
        proxy_of(spec)
        Proposals(spec, space_of(spec))


def test_the_default_space_holds_the_specs_own_values(prose: Path, tmp_path: Path) -> None:
    spec = make_spec(prose, tmp_path)
    assert space_of(spec) == default_space(spec)
    assert Proposals(spec, space_of(spec)).values(0) == {"optimizer.lr": 4e-3, "optimizer.betas.1": 0.95}


@pytest.mark.parametrize("sampler", ["random", "optuna"])
def test_proposals_follow_from_seed_and_number(sampler: str, prose: Path, tmp_path: Path) -> None:
    space = {**LR, "optimizer.betas.1": {"choice": [0.95, 0.99]}, "train.micro_batches": {"uniform": [2, 9]}}
    spec = make_spec(prose, tmp_path, tune={"space": space, "sampler": sampler})
    whole, again = Proposals(spec, space_of(spec)), Proposals(spec, space_of(spec))
    drawn = [whole.values(number) for number in range(8)]
    assert len({json.dumps(values) for values in drawn}) == 8
    for values in drawn[1:]:
        assert 1e-3 <= values["optimizer.lr"] <= 1e-1 and values["optimizer.betas.1"] in (0.95, 0.99)
        assert isinstance(values["train.micro_batches"], int) and 2 <= values["train.micro_batches"] <= 9
    # A search that starts again has the same trials, and continues with the same next ones.
    assert [again.values(number, known) for number, known in enumerate(drawn[:5])] == drawn[:5]
    assert [again.values(number) for number in range(5, 8)] == drawn[5:]


def test_optuna_learns_from_scores(prose: Path, tmp_path: Path) -> None:
    spec = make_spec(prose, tmp_path, tune={"space": LR})
    proposals = Proposals(spec, space_of(spec))
    drawn = []
    for number in range(40):
        drawn.append(proposals.values(number)["optimizer.lr"])
        proposals.tell(number, math.inf if drawn[-1] > 0.05 else abs(math.log(drawn[-1] / 0.02)))
    assert sum(abs(math.log(lr / 0.02)) < 0.5 for lr in drawn[-15:]) > sum(abs(math.log(lr / 0.02)) < 0.5 for lr in drawn[:15])


def test_a_grid_has_all_combinations(prose: Path, tmp_path: Path) -> None:
    space = {"optimizer.lr": {"choice": [0.01, 0.02]}, "optimizer.betas.1": {"choice": [0.9, 0.99]}}
    proposals = Proposals(spec := make_spec(prose, tmp_path, tune={"space": space, "sampler": "grid"}), space_of(spec))
    found = [proposals.values(number) for number in range(proposals.trials)]
    expected = [(0.01, 0.9), (0.02, 0.9), (0.01, 0.99), (0.02, 0.99)]
    assert [(values["optimizer.lr"], values["optimizer.betas.1"]) for values in found] == expected


def batched(space: Any, prose: Path, storage: Path, **tuning: Any) -> tuple[Spec, Batches]:
    spec = make_spec(prose, storage, train__steps=2000, tune={"space": space, **tuning})
    return spec, batches_of(spec, space_of(spec))


def test_trials_of_every_batch_compare_at_equal_tokens(prose: Path, tmp_path: Path) -> None:
    """A step of the spec has 5 x 2 samples; all choices align after a multiple of 4 steps of 10 samples."""
    choices = {"train.micro_batches": {"choice": [2, 5, 10, 20]}}
    spec, batches = batched(choices, prose, tmp_path)
    assert (batches.largest, batches.common) == (4.0, 4)
    costs = Costs(step=1.0, validation_unit=1 / 300, units_per_step=100)
    rungs = affordable(spec.tune, 6, 2000, costs, 5000, batches)
    assert rungs.lengths[0] >= 40  # ten steps of the largest batch
    for micro_batches in (2, 5, 10, 20):
        trial = with_values(spec.model_copy(deep=True), {"train.micro_batches": micro_batches})
        whole = [length * spec.samples_per_step / trial.samples_per_step for length in rungs.lengths]
        assert all(steps == round(steps) for steps in whole)
    # In a range, tokens agree to half a step of the largest batch, and the FLOPs leave room for it.
    ranged, any_size = batched({"train.micro_batches": {"uniform": [2, 20]}}, prose, tmp_path)
    assert (any_size.largest, any_size.common) == (4.0, None)
    rungs = affordable(ranged.tune, 6, 2000, costs, 5000, any_size)
    assert rungs.lengths[0] >= 40
    whole = [6 * (length + 2) * costs.step for length in rungs.lengths[:1]]
    assert whole[0] + 6 * rungs.validation_units * costs.validation_unit <= 5000
    with pytest.raises(
        InputError, match=r"tune.proxy.steps: 90 steps in 3 rungs make a first one of 10, .* 40 or more: set 360"
    ):
        affordable(batched(choices, prose, tmp_path, proxy={"steps": 90})[0].tune, 6, 2000, costs, 5000, batches)
    with pytest.raises(InputError, match="40 are needed, since the largest batch is 4 times the spec's"):
        affordable(spec.tune, 6, 100, costs, 1e9, batches)


def test_larger_steps_are_fewer(prose: Path, tmp_path: Path) -> None:
    spec = make_spec(prose, tmp_path)
    other = with_values(spec, {"train.micro_batches": 10, "optimizer.betas.1": 0.98})
    assert (other.train.steps, other.optimizer.betas) == (45, (0.9, 0.98))


def test_flops_counted_by_hand(prose: Path, tmp_path: Path) -> None:
    spec = make_spec(prose, tmp_path, model={"width": 16, "depth": 2, "heads": 1, "context": 32, "hidden": 48})
    matrices = 2 * (4 * 16 * 16 + 3 * 16 * 48) + 16 * CLASSES
    assert parameters_of(spec, CLASSES) == matrices
    unit = 6 * matrices + 12 * 2 * 16 * 32
    assert flops(spec, CLASSES, 7) == unit * 7 * 5 * 2 * 32
    assert flops(spec, CLASSES, 0, 300) == unit * 100


def test_a_budget_is_never_exceeded() -> None:
    budget = FlopBudget(10.0)
    assert budget.reserve("a", 6) and not budget.reserve("b", 5) and budget.reserve("b", 4)
    assert budget.reserve("a", 100)  # it has a reservation already
    budget.commit("a")
    budget.release("b")
    assert budget.used == 6 and budget.reserve("c", 4) and not budget.reserve("d", 0.1)


def test_arrivals_are_those_of_asha() -> None:
    """Against a simulation of its rule: a trial is promoted if it is among the best third of those before it."""
    import random

    import numpy as np

    simulated = []
    for seed in range(400):
        rng, came = random.Random(seed), []
        promoted = 0
        for _ in range(24):
            score = rng.random()
            promoted += not came or score <= np.quantile(came, 1 / 3)
            came.append(score)
        simulated.append(promoted)
    assert arrivals(24, 2, 3)[1] == pytest.approx(sum(simulated) / len(simulated), rel=0.15)


def test_a_search_is_as_large_as_its_budget_allows() -> None:
    costs, tuning = Costs(step=1.0, validation_unit=1 / 300, units_per_step=100), TuneConfig()
    for allowed, trials in ((1e9, 24), (3000, 24), (600, 24), (300, 24)):
        rungs = affordable(tuning, trials, 1000, costs, allowed)
        first, second, third = rungs.lengths
        arriving = arrivals(rungs.trials, 3, 3)
        cost = arriving[0] * first + arriving[1] * (second - first) + arriving[2] * (third - second)
        cost += sum(arriving) * rungs.validation_units * costs.validation_unit
        assert first >= 10 and second == pytest.approx(3 * first, abs=2) and third == pytest.approx(9 * first, abs=5)
        assert cost <= allowed * 1.05 and (cost > 0.7 * allowed or third == 1000)
        assert rungs.trials == trials or first < 13  # fewer only if each would be too short
    grid = TuneConfig(sampler="grid")
    for kind, allowed, needed in ((tuning, 10, "one trial takes"), (grid, 300, "all 24 trials takes")):
        with pytest.raises(InputError, match=f"a search of {needed}") as refused:
            affordable(kind, 24, 1000, costs, allowed)
        enough = float(re.findall(r"raise tune.budget to (\S+), or", str(refused.value))[0])
        assert enough > kind.budget
        assert planned(kind, 24, 1000, costs, allowed * enough / kind.budget)
        assert not planned(kind, 24, 1000, costs, allowed * 0.9 * enough / kind.budget), "a smaller one would not do"
    with pytest.raises(InputError, match=r"train.steps: 60\) make a first one of 7 step.*set fewer tune.rungs"):
        affordable(tuning, 24, 60, costs, 1e9)
    assert affordable(TuneConfig(rungs=1), 24, 60, costs, 1e9).lengths == (60,)
    with pytest.raises(InputError, match="a search of one trial takes"):  # as long as the run, and too expensive
        affordable(TuneConfig(proxy={"steps": 60}), 24, 60, costs, 10)


def test_the_smallest_budget_has_two_digits() -> None:
    assert smallest_budget(0.07, lambda budget: budget * 1000 >= 123.4) == 0.13
    assert smallest_budget(0.07, lambda budget: True) == 0.071
    assert smallest_budget(0.07, lambda budget: False) is None


def test_ladders_span_the_sizes_in_between(prose: Path, tmp_path: Path) -> None:
    spec = make_spec(prose, tmp_path, model={"width": 256, "depth": 8, "heads": 16, "context": 32})
    models = ladder_of(spec, proxy := proxy_of(spec), CLASSES)
    counts = [parameters_of(proxy.model_copy(update={"model": model}), CLASSES) for model in models]
    assert len(models) == 3 and counts == sorted(counts)
    assert counts[0] == parameters_of(proxy, CLASSES) and counts[-1] <= parameters_of(spec, CLASSES) / 2
    assert all((model.base_width, model.base_depth) == (64, 4) for model in models)


def test_a_trial_is_validated_at_its_rungs_and_continues_where_it_stopped(job: Job, tmp_path: Path) -> None:
    whole: list[RungResult] = []
    run(replace(job, folder=str(tmp_path / "whole")), whole.append)
    assert [rung.step for rung in whole] == [1, 3, 9] and not any(rung.replayed for rung in whole)
    assert whole[-1].val_loss < whole[0].val_loss

    class Killed(Exception):
        pass

    def until(step: int) -> Any:
        def report(found: RungResult) -> None:
            if found.step == step and not found.replayed:
                raise Killed

        return report

    halves = replace(job, folder=str(tmp_path / "halves"))
    for step in (1, 3):
        with pytest.raises(Killed):
            run(halves, until(step))
    rest: list[RungResult] = []
    run(halves, rest.append)
    assert [(r.step, r.replayed) for r in rest] == [(1, True), (3, True), (9, False)]
    assert [(r.val_loss, r.loss) for r in rest] == [(r.val_loss, r.loss) for r in whole]  # the same bits
    assert [r.step for r in results(Store.at(halves.folder))] == [1, 3, 9]
    (tmp_path / "halves" / STATE).unlink()  # without its state, a trial forgets its results
    run(halves, (fresh := []).append)
    assert [r.replayed for r in fresh] == [False] * 3


def test_a_trial_that_diverges_is_scored(job: Job, prose: Path, tmp_path: Path) -> None:
    spec = Spec.model_validate_json(job.spec_json)
    wild = with_values(spec, {"optimizer.lr": 1e30, "schedule.warmup": 0.0})
    found: list[RungResult] = []
    run(replace(job, folder=str(tmp_path / "wild"), spec_json=wild.model_dump_json()), found.append)
    assert found[-1].diverged and found[-1].val_loss == math.inf
    assert found[-1].reached is not None and 0 < found[-1].reached < found[-1].step
    assert found[-1].tokens == found[-1].reached * spec.tokens_per_step
    assert trial(0, spec, *found).score("val_loss") == math.inf
    again: list[RungResult] = []
    run(replace(job, folder=str(tmp_path / "wild"), spec_json=wild.model_dump_json()), again.append)
    assert [r.replayed for r in again] == [True] * len(found)
    assert [(r.tokens, r.reached) for r in again] == [(r.tokens, r.reached) for r in found]


def test_a_trial_whose_loss_spikes_continues(job: Job, tmp_path: Path) -> None:
    """A trial has no checkpoint to roll back to, so the spike's update is skipped."""
    spec = Spec.model_validate_json(job.spec_json)
    still = with_values(spec, {"train.steps": 24, "optimizer.lr": 1e-9})  # the loss stays about its median, above or below it
    wary = still.model_copy(update={"guard": GuardConfig(spike=0.001, roll_back=2)})
    found: list[RungResult] = []
    run(replace(job, folder=str(tmp_path / "wary"), spec_json=wary.model_dump_json(), rungs=(24,)), found.append)
    assert [one.step for one in found] == [24] and not found[0].diverged


def test_trials_rank_by_rungs_reached_before_score(prose: Path, tmp_path: Path) -> None:
    spec = make_spec(prose, tmp_path)
    trials = [
        trial(0, spec, rung(1, 2.0), state="stopped"), trial(1, spec, rung(1, 3.0), rung(9, 2.5)),
        trial(2, spec, rung(1, math.inf), state="diverged"), trial(3, spec, rung(1, 3.0), rung(9, 2.4)), trial(4, spec),
    ]  # fmt: skip
    order = ranked(trials, "val_loss")
    assert [one.number for one in order] == [3, 1, 0, 2, 4]
    table = aligned(rows(order, "val_loss"))
    assert table.split("\n")[0].split() == ["trial", "lr", "tokens", "val_loss", "state"]
    assert table.split("\n")[1].split() == ["3", "0.4", "2,880", "2.4000", "done"]
    assert "diverged" in table and len({len(line) for line in table.split("\n")}) == 1


def test_a_tie_keeps_the_specs_own_value(prose: Path, tmp_path: Path) -> None:
    spec = make_spec(prose, tmp_path)
    trials = [replace(trial(number, spec, rung(9, 2.5)), changed=changed) for number, changed in enumerate((2, 1, 0, 1))]
    assert [one.number for one in ranked(trials, "val_loss")] == [2, 1, 3, 0]


def test_the_table_says_how_far_a_trial_got(prose: Path, tmp_path: Path) -> None:
    spec = make_spec(prose, tmp_path)
    early = replace(rung(9, math.inf), tokens=3 * 320, reached=3)
    trials = [
        trial(0, spec, rung(1, 3.0), early, state="diverged"), trial(1, spec, rung(9, math.inf), state="diverged"),
        replace(trial(2, spec, state="lost"), died=4), replace(trial(3, spec, state="lost"), died=4, why="ValueError: no"),
        replace(trial(4, spec, rung(9, 2.5)), died=1), trial(5, spec, state="unpaid"),
    ]  # fmt: skip
    table = [line.split() for line in aligned(rows(trials, "val_loss")).split("\n")[1:]]
    assert [line[2] for line in table] == ["960", "2,880", "-", "-", "2,880", "-"]
    assert [" ".join(line[4:]) for line in table] == [
        "diverged in step 4 of 90", "diverged by step 9 of 90", "lost: its process died 4 times",
        "lost: its process died 4 times, last of ValueError: no", "done, though its process died once", "unpaid",
    ]  # fmt: skip
    assert _line(trials[0], "val_loss") == "trial 0 (lr 0.1): no val_loss after 960 tokens, diverged in step 4 of 90"


def test_an_unpaid_trial_stays_in_the_table(prose: Path, tmp_path: Path) -> None:
    spec = make_spec(prose, tmp_path)
    costs = [(1.0,), (9.0,), (2.0,)]

    def propose(number: int) -> Trial | None:
        if number == len(costs):
            return None
        job = Job(str(tmp_path / f"{number}"), "", None, 0, (9,), None, ())  # type: ignore[arg-type]
        return Trial(number, {"optimizer.lr": 0.1}, spec, job, costs[number])

    search = Search(spec, Store.at(tmp_path), FlopBudget(3.0), propose, lambda trial: None, lambda trials: None)
    begun = [search.next_trial(name) for name in ("a", "b", "c")]
    assert [one and one.number for one in begun] == [0, 2, None]
    assert [(one.number, one.state) for one in search.trials] == [(0, "runs"), (1, "unpaid"), (2, "runs")]
    search.end()
    assert [(one.number, one.standing) for one in search.trials] == [
        (0, "stopped by the search"),
        (1, "unpaid"),
        (2, "stopped by the search"),
    ], "once the search has ended, no trial runs"


def test_a_trial_whose_process_died_says_so(prose: Path, tmp_path: Path) -> None:
    spec = make_spec(prose, tmp_path)
    job = Job(str(tmp_path / "0"), '{"name": 1}', None, 0, (9,), None, ())  # type: ignore[arg-type]
    only = Trial(0, {"optimizer.lr": 0.1}, spec, job, (1.0,))
    ended: list[Trial] = []
    search = Search(
        spec, Store.at(tmp_path), FlopBudget(3.0), lambda number: None if number else only, ended.append, lambda trials: None
    )
    proposer = Proposer(search)
    config = proposer.suggest("a") | {"rungs": [1]}
    _Watcher(search).on_trial_recover(0, [], SimpleNamespace(trial_id="a"))  # it was killed, and left no exception
    assert (only.died, only.why, only.state) == (1, "", "runs")
    with pytest.raises(ValidationError):  # an invalid spec ends the next process with an exception
        _trainable(config)
    proposer.on_trial_complete("a", error=True)
    assert ended == [only] and only.standing.startswith("lost: its process died 2 times, last of ValidationError: ")


def test_usage_covers_the_time_while_trials_start() -> None:
    """Two slots, five trials: the second starts at 1 s, the last at 9 s; 8 of those 16 s are steps."""
    times = [(0, 5), (1, 5), (5, 9), (5, 9), (9, 20)]
    found = usage([[rung(1, 1.0, began, ended, (ended - began) / 2)] for began, ended in times], 2)
    assert found and found.busy == pytest.approx(0.5) and found.overhead_s == pytest.approx(8 / 3)
    assert usage([[rung(1, 1.0)]], 2) is None


SPEC = """\
name: run            # a comment
data:
  sources: [{path: PROSE}]
objective: {kind: next_token}
model: {width: 64, depth: 4, heads: 4, context: 32}
optimizer: {lr: 4.0e-3}     # another
train: {steps: 90}
"""


def test_the_tuned_spec_is_the_users_with_values_and_where_they_came_from(prose: Path) -> None:
    text = SPEC.replace("PROSE", str(prose))
    spec = parse_spec(text, "test", {"seed": 7})
    values = {"optimizer.lr": 0.0125, "optimizer.betas.1": 0.98, "schedule.warmup": 0.1, "train.micro_batches": 4}
    proxy_tokens = 90 * spec.tokens_per_step // 16
    tuned = tuned_yaml(text, {"seed": 7}, spec, values, {"base_width": 16, "base_depth": 2}, "best of 9 trials", proxy_tokens)
    found = parse_spec(tuned, "tuned")
    assert (found.name, found.seed) == ("run-tuned", 7)
    assert (found.optimizer.betas, found.schedule.warmup) == ((0.9, 0.98), 0.1)
    assert found.optimizer.lr == pytest.approx(0.0125 * 16**-0.32)
    assert (found.model.base_width, found.model.base_depth, found.model.width_mult, found.train.micro_batches) == (16, 2, 4, 4)
    own, batch = spec.train.micro_batches, spec.train.micro_batch_size
    assert found.train.steps == round(90 * own / 4) and found.train.micro_batch_size == batch
    assert "# a comment" in tuned and "# another" in tuned
    lines = {line.split(":")[0].strip(): line for line in tuned.split("\n") if "#" in line}
    assert "best of 9 trials; was 0.004; 0.0125 there, times (11,520/184,320)^0.32 for the horizon; divided" in lines["lr"]
    assert "was 0.95" in lines["betas"] and "was 0.02; carried as it is" in lines["warmup"]
    assert "batch size does not transfer by itself" in lines["micro_batches"]
    assert "CompleteP" in lines["base_width"]
    tokens = found.train.steps * found.tokens_per_step
    expected = (
        f"steps: {found.train.steps}  # was 90; {tokens:,} tokens as before, in steps of {found.tokens_per_step:,} instead of"
    )
    assert re.sub(" +", " ", expected) in re.sub(" +", " ", lines["steps"])


def test_ranges_have_ends() -> None:
    assert RangeConfig(log_uniform=(0.1, 1)).ends == [0.1, 1] and RangeConfig(choice=[None, True]).ends == [None, True]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda spec: foundray.forecast(), "name the runs of a ladder, or --points FILE"),
        (lambda spec: foundray.forecast(points="x.csv", target=spec, size=(1, 1)), "give one or the other"),
        (lambda spec: foundray.coordcheck(spec, widths=[16, 24]), "--widths: heads keep their size, 16"),
        (lambda spec: foundray.coordcheck(spec, widths=[16]), "coordcheck compares sizes"),
        (lambda spec: foundray.transfer(spec, [16, 32], [0.1]), "three or more --rates"),
        (lambda spec: foundray.transfer(spec, [16, 24], [0.1, 0.2, 0.3]), "--widths: heads keep their size, 16"),
    ],
)
def test_unanswerable_requests_are_one_sentence(call: Any, sentence: str, prose: Path, tmp_path: Path) -> None:
    spec = write_spec(tmp_path, small_spec(prose, tmp_path))
    with pytest.raises(InputError, match=sentence):
        call(spec)


def test_points_need_a_size(prose: Path, tmp_path: Path) -> None:
    rows = "".join(f"1e{n},1e{d},{9 - n * d / 10}\n" for n in (5, 6, 7) for d in (6, 7, 8))
    (points := tmp_path / "points.csv").write_text(f"N,D,loss\n{rows}")
    with pytest.raises(InputError, match="--parameters N --tokens D"):
        foundray.forecast(points=points)
    with pytest.raises(InputError, match="a CSV of points needs the target's size"):
        foundray.forecast(points=points, target=write_spec(tmp_path, small_spec(prose, tmp_path)))
