"""One trial: a proxy trained by the same exact step as the run, in one process, and judged at the end of each rung.

Its folder is all its memory: what was found at each rung, and the state there. A trial that was killed goes on from its last
rung; what was found before is told again, at no cost.

trial.json        its number and values
state.safetensors the state after its last rung, and what was found at all
results.jsonl     the same, for people: a line a rung
error.txt         the last exception that ended its process, in one line; none where the process was killed
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
"""The training loss of a trial is the mean of the last steps: one in so many."""


@dataclass(frozen=True)
class Job:
    """All that a worker is told of a trial."""

    folder: str
    spec_json: str
    plan: StreamPlan
    classes: int
    """The data's ids, 0 for values."""
    rungs: tuple[int, ...]
    """Steps after which it is judged; the last one is its end."""
    judging: StreamPlan
    """Of the validation split."""
    judged: tuple[int, ...]
    """Its micro-batches by which the trial is judged."""
    gpu: bool = False


def job_of(
    folder: Store, spec: Spec, prepared: Prepared, rungs: Sequence[int], judged: int | None = None, gpu: bool = False
) -> Job:
    """`judged` is about how many units of the validation split, from all over it, a trial is judged by; None for all."""
    plan = plan_for(prepared, spec)
    judging = validation_plan(plan, spec.objective.build().couples)
    whole = -(-plan.order().validation_samples // judging.micro_batch_size)
    some = whole if judged is None else min(whole, -(-judged // (judging.micro_batch_size * spec.model.context)))
    places = tuple(number * whole // some for number in range(some))
    return Job(folder.url, spec.model_dump_json(), plan, prepared.manifest.vocabulary, tuple(rungs), judging, places, gpu)


@dataclass(frozen=True)
class Rung:
    """What is found of a trial at the end of a rung."""

    step: int
    tokens: int
    val_loss: float
    """Over the part of the validation split that trials are judged by, in nats; infinite where the trial diverged."""
    loss: float
    """Training loss, in nats: the mean of the last tenth of the steps."""
    began: float
    ended: float
    """Seconds since the epoch, of this rung's part of the trial."""
    stepping_s: float
    """Seconds of its cores in training steps, data included; on a GPU, of wall time."""
    judging_s: float
    """The same, in judging."""
    replayed: bool = False
    """Whether it was found by an earlier process."""
    reached: int | None = None
    """The last step before the trial diverged on its way to `step`; None where it came to `step`."""

    @property
    def diverged(self) -> bool:
        return not math.isfinite(self.val_loss + self.loss)

    @property
    def steps(self) -> int:
        """Steps that were made, the last of which `tokens` is of."""
        return self.step if self.reached is None else self.reached


def run(job: Job, report: Callable[[Rung], None]) -> None:
    """Train to the end, or until `report`, which is told of every rung, ends the process."""
    folder, began = Store.at(job.folder), time.time()
    spec = Spec.model_validate_json(job.spec_json)
    content = (folder / STATE).read_bytes() if (folder / STATE).exists() else b""
    found = _found(content)
    for rung in found:
        report(replace(rung, replayed=True))
    done = found[-1].step if found else 0
    if done == job.rungs[-1] or (found and found[-1].diverged):
        return
    torch.set_num_threads(spec.scale.worker_threads)
    trainer = _trainer(job, spec, content)
    clock = _clock(job, spec)
    for end in (end for end in job.rungs if end > done):
        start, made = clock(), done
        losses: deque[float] = deque(maxlen=max(1, end // TAIL))
        try:
            for loss in _losses(trainer, job, done, end):
                losses.append(loss)
                made += 1
            trained = clock()
            asked = ((at, next(read_micro_batches(job.judging, at, 1))) for at in job.judged)
            val_loss, loss = evaluate(trainer, asked).loss, sum(losses) / len(losses)
        except Overflow:
            trained, val_loss, loss = clock(), math.inf, math.inf
        times = began, time.time(), trained - start, clock() - trained
        reached = made if made < end else None
        found.append(Rung(end, made * spec.tokens_per_step, val_loss, loss, *times, reached=reached))
        known = {"found": json.dumps([asdict(rung) for rung in found]), "losses": json.dumps(trainer.spikes.window())}
        (folder / STATE).write_bytes(safetensors.save(trainer.piece(), known))
        (folder / RESULTS).write_text("".join(json.dumps(asdict(rung)) + "\n" for rung in found))
        report(found[-1])
        if found[-1].diverged:
            return
        began, done = time.time(), end


def results(folder: Store) -> list[Rung]:
    """What was found of a trial so far."""
    file = folder / RESULTS
    return [Rung(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def _found(content: bytes) -> list[Rung]:
    """What the state's file tells of the rungs before it: one file, so that a kill leaves both or neither."""
    return [Rung(**rung) for rung in json.loads(_metadata(content)["found"])] if content else []


def _metadata(content: bytes) -> dict[str, str]:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return dict(header["__metadata__"])


def _trainer(job: Job, spec: Spec, content: bytes) -> Trainer:
    """Where the trial begins, or at its last rung."""
    objective = spec.objective.build()
    model = Model(spec.model, objective, spec.unit_shape(job.classes)).to("cuda" if job.gpu else "cpu")
    # A trial keeps no earlier checkpoint to roll back to: a spike's update is left out, as without guard.roll_back.
    spec = spec.model_copy(update={"guard": spec.guard.model_copy(update={"roll_back": None})})
    trainer = Trainer(spec, model, objective)
    trainer.initialise()
    if content:
        trainer.load(safetensors.load(content))
        trainer.spikes.restore(json.loads(_metadata(content).get("losses", "[]")), _found(content)[-1].step)
    return trainer


def _clock(job: Job, spec: Spec) -> Callable[[], float]:
    """Seconds that the cores of this process have worked: more processes than cores may share them."""
    return time.perf_counter if job.gpu else lambda: time.process_time() / spec.scale.worker_threads


def _losses(trainer: Trainer, job: Job, done: int, end: int) -> Iterator[float]:
    """Train, a step a loss. Raises Overflow where the trial diverges."""
    per_step = trainer.spec.train.micro_batches
    payloads = enumerate(_payloads(job.plan, done * per_step, end * per_step), done * per_step)
    for step in range(done, end):
        yield trainer.step(step, [next(payloads) for _ in range(per_step)]).loss


def _payloads(plan: StreamPlan, first: int, end: int) -> Iterator[bytes]:
    for start in range(first, end, plan.per_parcel):
        yield from read_micro_batches(plan, start, min(plan.per_parcel, end - start))
