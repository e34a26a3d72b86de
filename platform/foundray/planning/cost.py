"""What a run takes on the planned machines: memory, time and money, and which checkpoints pay.

    seconds   steps x (rounds x FLOPs per micro-batch / (peak x MFU)), rounds = ceil(micro-batches / workers of whole teams);
              FLOPs = tokens x (6 N + 12 L D T)  (Chowdhery et al. 2022); a step takes at least as long as launching its kernels
    cost      hours x accelerators x price
    memory    see `training/footprint.py`
    interval  sqrt(2 x cost of a checkpoint x time between failures)  (Young 1974, Daly 2006)
    goodput   1 - cost / interval - (interval / 2 + restart) / time between failures  (Daly 2006, to first order)

The time between failures is that of one machine divided by the number of machines. A checkpoint costs its bytes (weights and
optimizer state) divided by the machines, which write at the same time, times seconds per gigabyte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from foundray.errors import InputError
from foundray.host.gpu_memory import FULL
from foundray.planning.fitting import Smallest, on_fleet, remedy, smallest
from foundray.planning.gpus import IN_A_MACHINE, Fleet
from foundray.runs.run import Run
from foundray.spec import Spec
from foundray.training.checkpoints.interval import young_daly
from foundray.training.footprint import Footprint, footprint

MFU = 0.4
"""Assumed model FLOPs utilisation: published runs of dense transformers have 0.3 to 0.55 (Chowdhery et al. 2022,
table 3; Dubey et al. 2024, table 4); small models, short contexts and CPUs have less."""
MTBF_HOURS = 6300.0
"""Hours between failures of one machine of 8 GPUs: Llama 3's 419 unexpected interruptions in 54 days on 2,048 GPUs
(Dubey et al. 2024, arXiv:2407.21783, section 3.3.4). Spot machines are reclaimed far more often."""
SECONDS_PER_GIGABYTE = 1.0
"""Assumed seconds per gigabyte of a checkpoint: a disk, or a connection of 8 Gbit/s, per machine."""
RESTART_SECONDS = 120.0
"""From the failure of everything to the next step: processes start, import and read the checkpoint. Assumed."""
LAYER_SECONDS, STEP_SECONDS = 1e-3, 20e-3
"""Shortest time that a GPU takes for a layer of a micro-batch, forward and backward (about a hundred kernels of 10 us each),
and for a step's sum, update and exchange. Assumed; it matters for small models only."""


@dataclass(frozen=True)
class Assumptions:
    mfu: float = MFU
    mtbf_hours: float = MTBF_HOURS
    """Mean time between failures of one machine, in hours."""
    machines: int | None = None
    """None: as many as hold the GPUs, eight in each."""
    seconds_a_gigabyte: float = SECONDS_PER_GIGABYTE

    @property
    def assumed(self) -> str:
        """Which of the two inputs of the checkpoint interval are assumed, as the end of a sentence."""
        mtbf, writing = self.mtbf_hours == MTBF_HOURS, self.seconds_a_gigabyte == SECONDS_PER_GIGABYTE
        return ": both assumed" if mtbf and writing else ", the first assumed" if mtbf else ", the second assumed" * writing


def assume(mfu: float | None, mtbf_hours: float | None, machines: int | None, seconds_a_gigabyte: float | None) -> Assumptions:
    """The given values, and defaults for the rest. Raises InputError."""
    given = {"mfu": mfu, "mtbf_hours": mtbf_hours, "machines": machines, "seconds_a_gigabyte": seconds_a_gigabyte}
    flags = {"mtbf_hours": "mtbf", "seconds_a_gigabyte": "seconds-per-gb"}
    known = {name: value for name, value in given.items() if value is not None}
    for name, value in known.items():
        if not 0 < value < float("inf"):
            raise InputError(f"--{flags.get(name, name)} {value:g}: it must be a number above 0")
    if mfu is not None and mfu > 1:
        raise InputError(f"--mfu {mfu:g}: it is a share of the peak, so at most 1; 0.4 is usual")
    return Assumptions(**known)  # type: ignore[arg-type]


RECOMPUTING = 4 / 3
"""Time with activations recomputed: a backward pass takes twice a forward pass, which is done twice."""


@dataclass(frozen=True)
class Checkpoints:
    machines: int
    bytes: int
    """Bytes of one checkpoint."""
    seconds: float
    """Seconds that one checkpoint costs."""
    between_failures: float
    """Seconds between failures of any machine."""
    interval: float
    """Seconds between checkpoints at which least time is lost."""
    steps: int
    goodput: float
    """Goodput if every failure went back to a checkpoint."""


@dataclass(frozen=True)
class Estimate:
    """Estimate of the run on one fleet."""

    fleet: Fleet
    team: int
    """Workers that hold one copy of the model between them."""
    workers: int
    """Workers of all whole teams, or of one team if the fleet is too small for it: those that the numbers are for."""
    memory: Footprint
    """Of a worker."""
    recomputed: Footprint
    """The same with all activations recomputed in the backward pass."""
    remedy: str
    """If it is too large: the settings with which it would fit on this fleet; empty if there are none."""
    smallest: Smallest | None
    """If it does not fit: the smallest fleet of this kind that it fits."""
    problem: str
    """What the spec asks for that teams cannot do; empty if there are none."""
    seconds: float
    step_seconds: float
    starting: bool
    """Whether launching kernels takes longer than computing."""
    recomputing: bool
    """Whether the time includes that activations are computed again."""
    idle: int
    """Workers for which there is no micro-batch."""
    wasted: int
    """Turns of workers in the last round of a step for which there is no micro-batch, if there are several rounds."""
    cost: float | None
    checkpoints: Checkpoints

    @property
    def fits(self) -> str:
        """`fits`, `recomputing`, `too large`, or `too few` for a team of the spec's size."""
        if self.fleet.count < self.team:
            return "too few"
        room = FULL * self.fleet.memory
        return "fits" if self.memory.total <= room else "recomputing" if self.recomputed.total <= room else "too large"

    def to_dict(self) -> dict[str, Any]:
        return {
            **asdict(self.fleet),
            "fits": self.fits,
            "team": self.team,
            "workers": self.workers,
            "remedy": self.remedy,
            "smallest": asdict(self.smallest) if self.smallest else None,
            "problem": self.problem,
            "memory": self.memory.to_dict() | {"of": self.fleet.memory},
            "memory_recomputing": self.recomputed.to_dict(),
            "seconds": self.seconds,
            "step_seconds": self.step_seconds,
            "starting": self.starting,
            "idle": self.idle,
            "wasted": self.wasted,
            "cost": self.cost,
            "checkpoints": asdict(self.checkpoints),
        }


@dataclass(frozen=True)
class Measured:
    """The run's own speed, if it has begun."""

    tokens_per_s: float
    seconds: float
    """Seconds of the whole run at that speed."""
    workers: int | None


def estimates(spec: Spec, classes: int, flops: float, machines: Sequence[Fleet], given: Assumptions) -> list[Estimate]:
    """An estimate of the run per fleet."""
    return [_estimate(spec, classes, flops, fleet, given) for fleet in machines]


def _estimate(spec: Spec, classes: int, flops: float, fleet: Fleet, given: Assumptions) -> Estimate:
    # The teams that a run would form, and what each of their workers holds.
    spec = on_fleet(spec, classes, fleet)
    team = spec.scale.team_size
    workers = max(1, fleet.count // team) * team
    plain = footprint(spec, classes, workers, fleet.on_gpu)
    recomputed = footprint(spec, classes, workers, fleet.on_gpu, recompute=True)
    too_large = recomputed.total > FULL * fleet.memory
    least = smallest(spec, classes, fleet) if too_large or fleet.count < team else None
    # Time: a step is as many rounds as its micro-batches take.
    micro_batches = spec.train.micro_batches
    rounds = -(-micro_batches // workers)
    recomputing = spec.train.recompute == "full" or plain.total > FULL * fleet.memory
    computing = (
        (RECOMPUTING if recomputing else 1) * rounds * flops / spec.train.steps / micro_batches / (fleet.peak * given.mfu)
    )
    starts = rounds * spec.model.depth * LAYER_SECONDS + STEP_SECONDS if fleet.on_gpu else 0.0
    step = max(computing, starts)
    seconds, paid = step * spec.train.steps, max(fleet.count, workers)
    machines = given.machines or (-(-paid // IN_A_MACHINE) if fleet.on_gpu else 1)
    return Estimate(
        fleet=fleet,
        team=team,
        workers=workers,
        memory=plain,
        recomputed=recomputed,
        remedy=remedy(spec, classes, fleet, workers) if too_large else "",
        smallest=least,
        problem=spec.team_problem() if team > 1 or (least and least.recomputing > 1) else "",
        seconds=seconds,
        step_seconds=step,
        starting=starts > computing,
        recomputing=recomputing,
        idle=max(0, workers - micro_batches) if fleet.count >= team else 0,
        wasted=rounds * workers - micro_batches if rounds > 1 and fleet.count >= team else 0,
        cost=None if fleet.price is None else seconds / 3600 * paid * fleet.price,
        checkpoints=checkpoints(team * plain.weights + workers * plain.optimizer, machines, step, given),
    )


def checkpoints(state: int, machines: int, step_seconds: float, given: Assumptions) -> Checkpoints:
    """Which checkpoints pay for a state of `state` bytes that `machines` write together."""
    seconds = state / 1e9 * given.seconds_a_gigabyte / machines
    between = given.mtbf_hours * 3600 / machines
    interval = young_daly(seconds, between)
    lost = seconds / interval + (interval / 2 + RESTART_SECONDS) / between
    return Checkpoints(machines, state, seconds, between, interval, max(1, round(interval / step_seconds)), max(0.0, 1 - lost))


def measured(spec: Spec) -> Measured | None:
    """The speed of the spec's run, if it has taken steps."""
    run = Run.named(spec)
    if not run.exists() or not (speed := (facts := run.facts()).tokens_per_s):
        return None
    return Measured(speed, spec.train.steps * spec.tokens_per_step / speed, facts.workers)
