"""One trial: a proxy trained by the same exact step as the run, in one process, and validated at the end of each rung.

Its folder holds all its state: the results and the training state at each rung. A trial that was killed continues from its
last rung; earlier results are replayed at no cost.

trial.json        its number and values
state.safetensors the state after its last rung, and the results of all its rungs
results.jsonl     the same results for people, one line per rung
error.txt         the last exception that ended its process, in one line; absent if the process was killed
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from safetensors import torch as safetensors

from foundray.data.prepare.manifest import Prepared
from foundray.data.stream.leases import validation_plan
from foundray.data.stream.plan import StreamPlan, plan_for, read_micro_batches
from foundray.model.model import Model
from foundray.spec import Spec
from foundray.storage import Store
from foundray.training.evaluating.evaluation import evaluate
from foundray.training.step.outcome import Overflow
from foundray.training.step.trainer import Trainer

RESULTS, STATE, ERROR = "results.jsonl", "state.safetensors", "error.txt"
TAIL = 10
"""The training loss of a rung is the mean over the last 1/TAIL of its steps."""


@dataclass(frozen=True)
class Job:
    """All that a worker needs to run a trial."""

    folder: str
    spec_json: str
    plan: StreamPlan
    classes: int
    """Number of ids in the data, 0 for values."""
    rungs: tuple[int, ...]
    """Steps after which the trial is validated; the last one is its end."""
    validation: StreamPlan
    """Plan of the validation split."""
    validation_batches: tuple[int, ...]
    """Indices of the validation split's micro-batches that the trial is validated on."""
    gpu: bool = False


def job_of(
    folder: Store, spec: Spec, prepared: Prepared, rungs: Sequence[int], units: int | None = None, gpu: bool = False
) -> Job:
    """A job whose trial is validated on about `units` units from all over the validation split; None for all of it."""
    plan = plan_for(prepared, spec)
    validation = validation_plan(plan, spec.objective.build().couples)
    available = -(-plan.order().validation_samples // validation.micro_batch_size)
    count = available if units is None else min(available, -(-units // (validation.micro_batch_size * spec.model.context)))
    batches = tuple(number * available // count for number in range(count))
    return Job(folder.url, spec.model_dump_json(), plan, prepared.manifest.vocabulary, tuple(rungs), validation, batches, gpu)


@dataclass(frozen=True)
class RungResult:
    """Result of a trial at the end of a rung."""

    step: int
    tokens: int
    val_loss: float
    """Loss over the job's part of the validation split, in nats; infinite if the trial diverged."""
    loss: float
    """Training loss, in nats: the mean over the last tenth of the steps."""
    began: float
    ended: float
    """Start and end of this rung's part of the trial, in seconds since the epoch."""
    stepping_s: float
    """Seconds of its cores in training steps, data included; wall time on a GPU."""
    judging_s: float
    """The same for validation."""
    replayed: bool = False
    """Whether an earlier process computed it."""
    reached: int | None = None
    """The last step before the trial diverged on its way to `step`; None if it reached `step`."""

    @property
    def diverged(self) -> bool:
        return not math.isfinite(self.val_loss + self.loss)

    @property
    def steps(self) -> int:
        """Steps taken, which consumed `tokens`."""
        return self.step if self.reached is None else self.reached


def run(job: Job, report: Callable[[RungResult], None]) -> None:
    """Train to the end, or until `report`, which is called with every rung, ends the process."""
    # Replay the rungs of earlier processes.
    folder, began = Store.at(job.folder), time.time()
    spec = Spec.model_validate_json(job.spec_json)
    content = (folder / STATE).read_bytes() if (folder / STATE).exists() else b""
    found = _found(content)
    for rung in found:
        report(replace(rung, replayed=True))
    done = found[-1].step if found else 0
    if done == job.rungs[-1] or (found and found[-1].diverged):
        return
    # Train from the last rung's state to the end of each rung.
    torch.set_num_threads(spec.scale.worker_threads)
    trainer = _trainer(job, spec, content)
    clock = _clock(job, spec)
    for end in (end for end in job.rungs if end > done):
        start, taken = clock(), done
        losses: deque[float] = deque(maxlen=max(1, end // TAIL))
        try:
            for loss in _losses(trainer, job, done, end):
                losses.append(loss)
                taken += 1
            trained = clock()
            batches = ((at, next(read_micro_batches(job.validation, at, 1))) for at in job.validation_batches)
            val_loss, loss = evaluate(trainer, batches).loss, sum(losses) / len(losses)
        except Overflow:
            trained, val_loss, loss = clock(), math.inf, math.inf
        times = began, time.time(), trained - start, clock() - trained
        # Save state and results in one file, so that a kill leaves both or neither; then report.
        reached = taken if taken < end else None
        found.append(RungResult(end, taken * spec.tokens_per_step, val_loss, loss, *times, reached=reached))
        known = {"found": json.dumps([asdict(rung) for rung in found]), "losses": json.dumps(trainer.spikes.window())}
        (folder / STATE).write_bytes(safetensors.save(trainer.state_shard(), known))
        (folder / RESULTS).write_text("".join(json.dumps(asdict(rung)) + "\n" for rung in found))
        report(found[-1])
        if found[-1].diverged:
            return
        began, done = time.time(), end


def results(folder: Store) -> list[RungResult]:
    """Results of a trial so far."""
    file = folder / RESULTS
    return [RungResult(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def _found(content: bytes) -> list[RungResult]:
    """Results of the rungs so far, from the state's file."""
    return [RungResult(**rung) for rung in json.loads(_metadata(content)["found"])] if content else []


def _metadata(content: bytes) -> dict[str, str]:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return dict(header["__metadata__"])


def _trainer(job: Job, spec: Spec, content: bytes) -> Trainer:
    """A trainer at the trial's start, or at its last rung."""
    objective = spec.objective.build()
    model = Model(spec.model, objective, spec.unit_shape(job.classes)).to("cuda" if job.gpu else "cpu")
    # A trial keeps no earlier checkpoint to roll back to, so a spike's update is skipped, as without guard.roll_back.
    spec = spec.model_copy(update={"guard": spec.guard.model_copy(update={"roll_back": None})})
    trainer = Trainer(spec, model, objective)
    trainer.initialise()
    if content:
        trainer.load(safetensors.load(content))
        trainer.spikes.restore(json.loads(_metadata(content).get("losses", "[]")), _found(content)[-1].step)
    return trainer


def _clock(job: Job, spec: Spec) -> Callable[[], float]:
    """Clock of the busy seconds of this process's cores, which more processes than cores may share; wall time on a GPU."""
    return time.perf_counter if job.gpu else lambda: time.process_time() / spec.scale.worker_threads


def _losses(trainer: Trainer, job: Job, done: int, end: int) -> Iterator[float]:
    """Train, and yield each step's loss. Raises Overflow if the trial diverges."""
    per_step = trainer.spec.train.micro_batches
    payloads = enumerate(_payloads(job.plan, done * per_step, end * per_step), done * per_step)
    for step in range(done, end):
        yield trainer.step(step, [next(payloads) for _ in range(per_step)]).loss


def _payloads(plan: StreamPlan, first: int, end: int) -> Iterator[bytes]:
    for start in range(first, end, plan.per_parcel):
        yield from read_micro_batches(plan, start, min(plan.per_parcel, end - start))
