"""`foundray branch`: a new run that continues from another run's checkpoint, with its optimizer's state, under another spec.

The new run holds a copy of the state, so that it does not depend on the other once it has begun. Its spec names that state by
hash (`branch_from`), and its first record names the run and what was changed.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from foundray.errors import InputError
from foundray.runs.checkpoints import completed, step_of
from foundray.runs.extension import changed
from foundray.runs.lock import RunLock
from foundray.runs.places import with_absolute_paths
from foundray.runs.run import BRANCHING, Run, event, is_of_the_lock
from foundray.spec import BranchFromConfig, Spec, differences, flatten
from foundray.spec.loading import parse_spec
from foundray.storage import Store
from foundray.tracking.process import check_installed as check_trackers
from foundray.training.checkpoints.checkpoint import read_state, state_sha256, write_shard
from foundray.training.checkpoints.written import commit
from foundray.training.evaluating.tasks.kept import check_tasks
from foundray.training.rollback import passed_over, recorded
from foundray.training.step.blocks import Blocks
from foundray.training.validation_sets import check_sets
from foundray.urls import canonical
from foundray.wording.words import plural

BRANCHED = "branched"
MAY_CHANGE = re.compile(
    r"(optimizer\.(lr|betas|eps|weight_decay|clip)|schedule|train\.(steps|evaluate_every|stop_early)|guard|evaluate"
    r"|data\.sources\.\d+\.weight)\b"
)
"""Fields of a run's identity that a branch may change: the state fits, and the data continue where the run was."""


def branch(run: Run, wanted: int | None, overrides: Mapping[str, Any], report: Callable[[str], None]) -> Run:
    """Make the new run, and return it; if it is there already, return that one. Raises InputError, and then makes nothing.

    `wanted` is the step of the checkpoint (default: the newest).
    """
    run.check_arithmetic()
    parent, lineage = run.spec(), run.lineage()
    there = completed(run.checkpoints, lineage)
    found = [one for one in there if wanted in (None, step_of(one))]
    if not found:
        steps = ", ".join(f"{step_of(one):,}" for one in reversed(there))
        if not there:
            raise InputError(f"{run.folder} has no complete checkpoint to branch from")
        raise InputError(f"--step {wanted}: {run.folder} has no complete checkpoint of it; it has those of steps {steps}")
    step = step_of(found[0])
    spec = _spec_of(run, parent, step, overrides)
    manifest, tensors = read_state(found[0])
    origin = BranchFromConfig(run=run.folder.url, step=step, state_sha256=state_sha256(tensors))
    spec = spec.model_copy(update={"branch_from": origin}).begun_with(parent.arithmetic)
    spec = with_absolute_paths(spec)
    made = Run.named(spec)
    if not made.exists():
        check_trackers(spec)
        check_tasks(spec)
        check_sets(spec)
    with RunLock(made.folder, report):
        if made.exists():
            made.check_same(spec)
            report(f"{made.folder} is this branch already; it continues{_but_as_it_was(made.spec(), spec)}")
            return made
        _begin(made)
        shards = write_shard(made.checkpoints, step, Blocks((range(manifest.blocks),)), tensors)
        update = {"fingerprint": spec.fingerprint(), "shards": list(shards), "lineage": ""}
        commit(made.checkpoints, manifest.model_copy(update=update))
        _copy(run, made)
        before = event(
            BRANCHED, step=step, run=origin.run, fingerprint=parent.fingerprint(), state_sha256=origin.state_sha256,
            passed_over=passed_over(recorded(run.records("events.jsonl")), step),
            changed={name: values for name, values in changed(parent, spec).items() if MAY_CHANGE.match(name)},
        )  # fmt: skip
        made.append("events.jsonl", [{"time": round(time.time(), 3), **before}])
        (made.folder / "spec.yaml").write_text(spec.to_yaml())  # with it, the run is there
        (made.folder / BRANCHING).delete_file()
    if caution := _decaying(parent, step, [step_of(one) for one in there]):
        report(caution)
    report(f"{made.folder} branches from step {step:,} of {run.folder}; {plural(spec.train.steps - step, 'step')} remain")
    return made


def _begin(made: Run) -> None:
    """Mark the folder as a branch in the making, and delete what an interrupted command left. Raises InputError."""
    if not (made.folder / BRANCHING).exists():
        if others := sorted(name for name in {one.name for one in made.folder.children()} if not is_of_the_lock(name)):
            raise InputError(f"{made.folder} holds {others[0]}, and is no run: give the branch another name")
        (made.folder / BRANCHING).write_text("a branch is being made here\n")
    for log in ("events", "metrics"):
        (made.folder / f"{log}.jsonl").delete_file()
        (made.folder / log).delete_folder()
    made.checkpoints.delete_folder()


def _spec_of(run: Run, parent: Spec, step: int, overrides: Mapping[str, Any]) -> Spec:
    """The new run's spec. Raises InputError if a changed field does not go with the state."""
    file = run.folder / "spec.yaml"
    fields = {"storage": run.folder.parent.url, "name": f"{run.folder.name}-{step}", "branch_from": None, **overrides}
    spec = parse_spec(file.read_text(), str(file), fields, flags=tuple(overrides)).begun_with(parent.arithmetic)
    if problem := spec.name_problem():
        raise InputError(f"--set {problem}")
    if spec.train.epochs:
        raise InputError("--set train.epochs: give a branch's length in train.steps or train.tokens")
    here, there = _decides(spec), _decides(parent)
    names = [name for name in {**there, **here} if not name.startswith("branch_from.")]
    wrong = [name for name in names if here.get(name) != there.get(name) and not MAY_CHANGE.match(name)]
    if wrong:
        raise InputError(
            f"--set {wrong[0]}: a branch continues with the state of step {step:,}, on the same data, which this would not "
            "fit; it may change the optimizer's lr, betas, eps, weight_decay and clip, schedule, guard, evaluate, train.steps, "
            "train.stop_early, the sources' weights, and all that never changes a result"
        )
    if Run.named(spec).folder.url == run.folder.url:
        raise InputError(f"--set name={spec.name}: {run.folder} is the run to branch from; give the branch another name")
    if spec.train.steps <= step:
        raise InputError(f"train.steps: {spec.train.steps} is not after step {step:,}, from which the run would branch")
    return spec


def _decaying(parent: Spec, step: int, there: Sequence[int]) -> str:
    """A caution that `wsd` was already decaying at a step, with the newest of the checkpoints from before; otherwise empty."""
    start = parent.decay_start
    if start is None or step <= start:
        return ""
    before = max((one for one in there if one <= start), default=None)
    remedy = "no checkpoint from before is left" if before is None else f"--step {before} takes the checkpoint from before"
    return f"at step {step:,} the learning rate is already decaying, as it does after step {start:,}: {remedy}"


def _but_as_it_was(there: Spec, here: Spec) -> str:
    """What is asked for otherwise than it was, of all that never changes a result; empty for nothing."""
    changed = differences(flatten(there.model_dump(mode="json")), flatten(here.model_dump(mode="json")))
    return f" with the fields that it has ({'; '.join(changed)}); `foundray resume --set` takes others" if changed else ""


def _decides(spec: Spec) -> dict[str, Any]:
    paths = {f"data.sources.{i}.path": canonical(Store.at(source.path).url) for i, source in enumerate(spec.data.sources)}
    return spec.identity() | paths | {"scale.threads": spec.scale.threads}


def _copy(run: Run, made: Run) -> None:
    """Copy what says of the data what they are, with their absolute place."""
    if (run.folder / "tokenizer.json").exists():
        (made.folder / "tokenizer.json").write_text((run.folder / "tokenizer.json").read_text())
    data = json.loads((run.folder / "data.json").read_text())
    beside = run.folder.parent / "prepared" / Store.at(run.data_folder()).name
    if (beside / "manifest.json").exists():  # both have moved
        data["folder"] = beside.url
    (made.folder / "data.json").write_text(json.dumps(data))
