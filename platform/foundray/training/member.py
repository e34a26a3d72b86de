"""A member: a process that computes. It outlives the groups it takes part in, and keeps its state in memory between them.

The driver's conductor tells members to take part in a group, from a step and a state that it chose. A member goes on
until the run is over, until somebody was asked to stop after a step (`paused`), or until the group breaks: then it keeps
what it has and waits for the next order. Warming up (imports, building the model) happens once, beside the others' work.
"""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import ray
import torch
from torch import Tensor

from foundray.contract import load_objective
from foundray.data.feeder import MicroBatchSource, validation_plan
from foundray.data.stream import StreamPlan, read_samples
from foundray.errors import FoundrayError, InputError, RunFailed
from foundray.model.decoder import Model, initialise
from foundray.run import event
from foundray.spec import Spec
from foundray.storage import Store
from foundray.training.board import Journal
from foundray.training.checkpoint import ShardFile, load_latest, weights_sha256, write_shard
from foundray.training.group import Group
from foundray.training.guards import Corruption
from foundray.training.interval import Interval
from foundray.training.memory import Memory, restore
from foundray.training.recovery import Piece, Source
from foundray.training.step import Overflow, StepResult, Trainer, named_weights

EVALUATION_BATCH = 32
"""Samples evaluated at once, at least: without gradients more fit than in training."""
WATCH_SECONDS = 1.0
"""Longest that a watcher waits for news."""


@dataclass(frozen=True)
class Work:
    """What a member has to know of its run."""

    spec_json: str
    run: str
    """The run folder's URL."""
    plan: StreamPlan
    vocabulary: int
    document_id: int
    validation_samples: int
    feeder: Any
    board: Any


@dataclass(frozen=True)
class Order:
    """Take part in a group."""

    generation: int
    rank: int
    world: int
    rendezvous: tuple[str, int] | None
    """Address and port at which rank 0 gathers the group; None for a group of one."""
    source: Source | None
    """Where the state is, holders by rank; None for storage."""
    mirror: Any
    """The member that mirrors this one's piece, if any."""
    recorded: int
    """Steps whose records the driver has."""
    evaluated: int
    """The last step whose evaluation the driver has."""
    trusted: int
    """The last step whose state may be kept; later ones may be corrupt."""
    failures: int
    """Groups that broke since the command began."""
    losses: tuple[tuple[int, float], ...]
    """(step, loss) of the last steps that the driver has, but spikes."""


@dataclass(frozen=True)
class Status:
    """What a member's watcher learns. Phases: warming, ready, running, paused, broken, finished, failed."""

    phase: str = "warming"
    version: int = 0
    generation: int = 0
    step: int = 0
    reason: str = ""
    """Why it is broken or failed."""
    exit_status: int = 1
    """Of a failed run."""
    suspects: tuple[int, ...] = ()
    """Ranks that computed other bits than the others, where that is why it is broken."""
    written: tuple[tuple[int, int, ShardFile | str, float], ...] = ()
    """(generation, step, the shard written or why not, seconds) of this generation's checkpoints."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Of a ready member: blocks and parameters of the model; of a finished one: the weights' SHA-256."""


class Member:
    """The actor. Its methods answer while a thread of its own computes."""

    def __init__(self, work: Work, device: str):
        self.work, self.device = work, device
        self.status = Status()
        self.changed = threading.Condition()
        self.orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self.memory = Memory()
        self.group: Group | None = None
        self.leaving = threading.Event()
        threading.Thread(target=self._live, daemon=True).start()

    # What the conductor and other members call.

    def watch(self, version: int) -> Status:
        """The status as soon as it is not `version` any more, or after a second."""
        with self.changed:
            self.changed.wait_for(lambda: self.status.version != version, WATCH_SECONDS)
            return self.status

    def rendezvous(self) -> tuple[str, int]:
        """An address and a free port on this node."""
        import socket

        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def take_part(self, order: Order) -> None:
        self._say(phase="running", generation=order.generation, written=(), suspects=())
        self.orders.put(order)

    def pause(self) -> None:
        """Stop with all others after the step under way."""
        self.leaving.set()

    def halt(self, seconds: float) -> tuple[Status, list[Piece]]:
        """Break off what is under way, for the group is broken; gives the pieces held."""
        if self.group and self.status.phase == "running":
            self.group.abort()
        with self.changed:
            self.changed.wait_for(lambda: self.status.phase != "running", seconds)
            return self.status, self.memory.pieces()

    def hold(self, piece: Piece, tensors: dict[str, Any]) -> None:
        """Mirror a piece of another member, given as NumPy arrays."""
        self.memory.keep(piece, {name: torch.from_numpy(array.copy()) for name, array in tensors.items()})

    def hand_over(self, heir: Any) -> Piece | None:
        """Give this member's newest piece, if it has one, to another."""
        if (piece := self.memory.own) is not None:
            ray.get(heir.hold.remote(piece, _arrays(self.memory.get(piece))))
        return piece

    # What the thread does.

    def _say(self, **changes: Any) -> None:
        with self.changed:
            self.status = replace(self.status, version=self.status.version + 1, **changes)
            self.changed.notify_all()

    def _live(self) -> None:
        try:
            loop = _Loop(self, self.work)
            self._say(phase="ready", facts=loop.facts())
        except FoundrayError as error:
            return self._say(phase="failed", reason=str(error), exit_status=error.exit_status)
        except Exception as error:
            return self._say(phase="failed", reason=f"{type(error).__name__}: {error}")
        while True:
            order = self.orders.get()
            self.leaving.clear()
            try:
                loop.join(order)
                outcome: dict[str, Any] = loop.run()
            except ray.exceptions.RayError as error:
                outcome = {"phase": "broken", "reason": f"the feeder: {type(error).__name__}"}
            except FoundrayError as error:
                outcome = {"phase": "failed", "reason": str(error), "exit_status": error.exit_status}
            except Corruption as error:
                outcome = {"phase": "broken", "reason": str(error), "suspects": tuple(error.ranks)}
            except Exception as error:  # a collective that failed, mostly: another member is gone
                outcome = {"phase": "broken", "reason": f"{type(error).__name__}: {str(error)[:300]}"}
            loop.leave()
            self._say(step=loop.done, **outcome)


class _Loop:
    """The training loop of one member."""

    def __init__(self, member: Member, work: Work):
        began = time.time()
        self.member, self.work = member, work
        self.spec = spec = Spec.model_validate_json(work.spec_json)
        torch.set_num_threads(spec.scale.worker_threads)
        objective = load_objective(spec.objective.kind, spec.objective.model_extra or {})
        model = Model(spec.model, work.vocabulary, objective.heads(work.vocabulary))
        self.initial = lambda: initialise(model, spec.seed)
        model.to(member.device)
        self.trainer = Trainer(spec, model, objective, work.document_id)
        self.trainer.read = lambda position: read_samples(work.plan, position, 1)
        self.checkpoints = Store.at(work.run) / "checkpoints"
        self.journal = Journal(work.board)
        self.writer = ThreadPoolExecutor(1)
        self.writing: Future[None] | None = None
        self.mirroring: list[Any] = []
        self.interval = Interval()
        self.saving = False
        self.done = 0
        self.copied = 0.0
        """Seconds that copying the state took before this step."""
        self.warm_s = time.time() - began

    def facts(self) -> dict[str, Any]:
        layout = self.trainer.layout
        return {
            "blocks": layout.blocks,
            "parameters": [(e.name, list(e.shape), e.first) for e in layout.entries],
            "device": str(self.trainer.device),
            "model_s": round(self.warm_s, 3),
        }

    # Joining and leaving a group

    def join(self, order: Order) -> None:
        began = time.perf_counter()
        self.order = order
        self.mirroring = []
        self.member.memory.drop_after(order.trusted)
        group = self.member.group = Group.gather_at(order.rendezvous, order.rank, order.world, self.trainer.device)
        if order.source is not None:
            self.done = restore(self.trainer, group, order.source, self.member.memory)
            skipped = []
        else:
            self.initial()
            self.trainer.take_part(group)
            restored = load_latest(self.checkpoints, self.trainer, self.spec.fingerprint())
            self.done, skipped = restored.step, restored.skipped
        self.trainer.updates = self.done
        self.saved = None if order.source else self.done
        self.interval.begin(self.done)
        self.journal.begin(order.rank == 0, order.recorded, order.evaluated, self.done)
        for reason in skipped:
            self.journal.event("checkpoint_skipped", step=self.done, reason=reason, going_on_from=self.done)
        self.journal.event(
            "workers_started",
            step=self.done,
            workers=order.world,
            device=str(self.trainer.device),
            state="memory" if order.source else "storage",
            seconds=round(time.perf_counter() - began, 3),
        )
        self.evaluated = order.evaluated
        self._agree(group)
        if self.done and order.world > 1:
            self._mirror(self.trainer.piece())

    def _agree(self, group: Group) -> None:
        """On what the steps before were like, as rank 0 knows it, and on whether all compute alike."""
        known = dict(self.order.losses) | dict(self.trainer.spikes.losses)
        kinds, histories = zip(*group.share((_kind(self.trainer.device), tuple(known.items()))), strict=True)
        self.trainer.spikes.remember(histories[0], self.done)
        self.trainer.alike = len(set(kinds)) == 1
        if not self.trainer.alike and self.spec.train.exact:
            reason = f"the hardware is of {len(set(kinds))} kinds ({', '.join(sorted(set(kinds)))})"
            self.journal.event("unlike", step=self.done, reason=reason)

    def leave(self) -> None:
        """Keep the live piece for the next group, and let go of the old one, which wakes whoever still waits in it."""
        if self.trainer.updates == self.done + 1 and self.trainer.result:  # it broke between the update and the gathering
            self._count(self.trainer.result, 0.0)
        if self.trainer.updates:
            self.member.memory.keep(self._live(), self.trainer.piece(), own=True)
        self.member.group = None
        self.trainer.group.leave()

    def _live(self) -> Piece:
        blocks = self.trainer.blocks
        return Piece(self.trainer.updates or 0, self.order.generation, blocks.start, blocks.stop)

    # The loop

    def run(self) -> dict[str, Any]:
        """Until the run's last step, or until all stop. Gives the phase that follows."""
        train = self.spec.train
        end = train.steps * train.micro_batches
        feeder, generation = self.work.feeder, self.order.generation
        plan, rank = self.work.plan, self.order.rank
        source = MicroBatchSource(feeder, generation, "train", plan, train.micro_batches, self.done, end, rank)
        while True:
            self._look_after()
            if self.done == train.steps:
                break
            self.began = time.perf_counter()
            try:
                leave, save = self.member.leaving.is_set(), self._checkpoint_pays()
                result = self.trainer.step(self.done, self._micro_batches(source), leave, save)
            except Overflow as overflow:
                raise self._explained(overflow) from None
            self._count(result, source.take_waited())
            self.saving = result.saving
            if result.leaving and self.done < train.steps:
                self._settle_mirror()
                self.journal.close()
                return {"phase": "paused"}
        self._settle_writing()
        self.journal.close()
        sha = weights_sha256(named_weights(self.trainer.flat)) if self.order.rank == 0 else None
        return {"phase": "finished", "facts": {"weights_sha256": sha}}

    def _look_after(self) -> None:
        """What is due after a step, or when joining there: evaluation, checkpoint, mirror."""
        train, last = self.spec.train, self.done == self.spec.train.steps

        def due(every: int) -> bool:
            return last or (self.done > 0 and self.done % every == 0)

        if due(train.evaluate_every) and self.evaluated < self.done:
            self._evaluate()
        every = train.checkpoint_every
        wanted = last or (self.saving if every == "auto" else due(every))
        save = wanted and self.saved != self.done and len(self.trainer.blocks) > 0
        mirror = due(self.spec.fault.mirror_every) and self.order.mirror is not None
        began = time.perf_counter()
        if save or mirror:
            tensors = self.trainer.piece()
            if mirror:
                self._mirror(tensors)
            if save:
                self._save(tensors, last)
                self.interval.saved(self.done, time.perf_counter() - began)
        self.copied = time.perf_counter() - began

    def _checkpoint_pays(self) -> bool:
        """Whether rank 0, for all, wishes a checkpoint after the step under way, where the interval is left to us."""
        wanted = self.spec.train.checkpoint_every == "auto" and self.order.rank == 0
        return wanted and self.interval.pays(self.done + 1, self.order.failures)

    def _micro_batches(self, source: MicroBatchSource) -> Any:
        yield from source.step(self.done)
        self._settle_mirror()  # before this step can be counted, or more than `mirror_every` could be lost

    def _count(self, result: StepResult, waited: float) -> None:
        """One more step is done."""
        self.done += 1
        seconds = time.perf_counter() - self.began
        self.journal.record(
            {
                "time": round(time.time(), 3),
                "step": self.done,
                "tokens": self.done * self.spec.tokens_per_step,
                "loss": result.loss,
                "grad_norm": result.grad_norm,
                "lr": result.lr,
                "step_s": round(seconds, 6),
                "data_wait_s": round(waited, 6),
                "copy_s": round(self.copied, 6),
                "tokens_per_s": round(self.spec.tokens_per_step / seconds, 1),
                "workers": self.order.world,
                "takers": result.takers,
                "skipped": result.skipped,
                "spike": result.spike,
                "data": result.data,
            }
        )

    def _evaluate(self) -> None:
        """One pass over the whole validation split, as one step of a stream of its own."""
        began = time.perf_counter()
        size = self.spec.train.micro_batch_size
        plan = validation_plan(self.work.plan, size * -(-EVALUATION_BATCH // size))
        batches = -(-self.work.validation_samples // plan.micro_batch_size)
        name = f"validation-{self.done}"
        order = self.order
        source = MicroBatchSource(self.work.feeder, order.generation, name, plan, batches, 0, batches, order.rank)
        loss, tokens = self.trainer.evaluate(source.step(0))
        source.close()
        self.evaluated = self.done
        seconds = round(time.perf_counter() - began, 3)
        self.journal.record(event("evaluated", step=self.done, val_loss=loss, val_tokens=tokens, seconds=seconds))

    # Copies of the state

    def _mirror(self, tensors: dict[str, Tensor]) -> None:
        self._settle_mirror()
        piece = self._live()
        self.member.memory.keep(piece, tensors, own=True)
        if self.order.mirror is not None:
            self.mirroring = [self.order.mirror.hold.remote(piece, _arrays(tensors))]

    def _settle_mirror(self) -> None:
        if self.mirroring:
            ray.get(self.mirroring)
            self.mirroring = []

    def _save(self, tensors: dict[str, Tensor], last: bool) -> None:
        """Write this member's piece, beside the steps that follow; the conductor completes the checkpoint."""
        if self.writing and not self.writing.done() and not last:
            self.journal.event("checkpoint_late", step=self.done, reason="the one before is still being written")
            return
        if self.writing and last:
            self._settle_writing()
        self.saved = self.done
        blocks, generation = self.trainer.blocks, self.order.generation
        self.writing = self.writer.submit(self._write, generation, self.done, blocks, tensors, last)

    def _write(self, generation: int, step: int, blocks: range, tensors: dict[str, Tensor], last: bool) -> None:
        """In the writer's thread. What the run ends with is tried again and again for a while."""
        began = time.monotonic()
        while True:
            try:
                outcome: ShardFile | str = write_shard(self.checkpoints, step, blocks, tensors)
                break
            except InputError as error:
                outcome = str(error)
            if not last or time.monotonic() - began > self.spec.fault.storage_wait_s:
                break
            time.sleep(0.5)
        if generation == self.member.status.generation:
            self.member._say(written=(*self.member.status.written, (generation, step, outcome, time.monotonic() - began)))
        if last and isinstance(outcome, str):
            raise InputError(f"the checkpoint of step {step} could not be written: {outcome}")

    def _settle_writing(self) -> None:
        if self.writing:
            self.writing.result(timeout=None)

    def _explained(self, overflow: Overflow) -> RunFailed:
        first = overflow.step * self.spec.train.micro_batches + overflow.index
        names = self.work.plan.order().ids(self.work.plan.addresses(first, 1))
        return RunFailed(f"{overflow} (samples {', '.join(names)}, ...): look at these samples, or try a lower optimizer.lr")


def _arrays(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _kind(device: torch.device) -> str:
    """Of the hardware: equal kinds compute equal bits."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
