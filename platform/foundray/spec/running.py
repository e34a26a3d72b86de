"""What a run runs on, and how it handles faults."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from foundray.contract.tracking import TRACKERS, Tracker, load_tracker
from foundray.spec.learning import check_installed
from foundray.spec.section import Section, without_secret


def _as_pair(value: object) -> object:
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


WorkerRange = Annotated[tuple[NonNegativeInt, PositiveInt], BeforeValidator(_as_pair)]


def _ordered(workers: tuple[int, int]) -> tuple[int, int]:
    if workers[0] > workers[1]:
        raise ValueError(f"the minimum comes first: [{workers[1]}, {workers[0]}]")
    return workers


class PoolConfig(Section):
    workers: Annotated[WorkerRange, AfterValidator(_ordered)]
    """Minimum and maximum number of workers in this pool, or one number for both."""
    resources: dict[str, PositiveFloat] = Field(default={"CPU": 1})
    """Resources that Ray reserves per worker of this pool, such as `{CPU: 4, GPU: 1}`."""
    accelerator: str | None = None
    """Ray's name for the accelerator of its nodes, such as `A100`."""
    labels: dict[str, str] = Field(default={})
    """Ray labels of its nodes, as a label selector: `{zone: "in(a,b)"}`."""
    peak_flops: PositiveFloat | None = None
    """FLOP/s that a worker's hardware can do at most, for MFU (default: known from the GPU's name, as far as it is)."""


class ScaleConfig(Section):
    workers: Annotated[WorkerRange, AfterValidator(_ordered)] | None = None
    """Minimum and maximum number of workers, or one number for both; as many run as fit the cluster (default: the sum over the
    pools; without `resources` and `threads`, on one machine, up to one per core, as memory allows; otherwise one)."""
    resources: dict[str, PositiveFloat] = Field(default={"CPU": 1})
    """Resources that Ray reserves per worker, such as `{CPU: 4, GPU: 1}`."""
    pools: dict[str, PoolConfig] = Field(default={})
    """Kinds of machines, by names of your own, mixed in one group; replaces `workers`, `resources` and `peak_flops`."""
    peak_flops: PositiveFloat | None = None
    """FLOP/s that a worker's hardware can do at most, for MFU (default: known from the GPU's name, as far as it is)."""
    team: PositiveInt | Literal["auto"] = "auto"
    """Workers that hold one copy of the model between them. With `train.exact`, the result does not depend on it, and a run can
    be resumed with another number. A group is then made of whole teams, workers of one node first; those left over wait. `auto`
    is the smallest number for which the memory of GPUs of a known kind is enough, and 1 otherwise."""
    threads: PositiveInt | None = None
    """CPU threads per worker (default: the whole CPUs that it holds). Another number may round differently, so a run keeps its
    number."""

    @model_validator(mode="before")
    @classmethod
    def _sum_of_pools(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("pools") and not fields.get("workers"):
            with contextlib.suppress(ValidationError):  # reported by the check of the pool itself
                pools = [PoolConfig.model_validate(pool).workers for pool in fields["pools"].values()]
                return {**fields, "workers": [sum(fewest for fewest, _ in pools), sum(most for _, most in pools)]}
        return fields

    @model_validator(mode="after")
    def _consistent(self) -> ScaleConfig:
        sums = tuple(sum(pool.workers[end] for pool in self.pools.values()) for end in (0, 1))
        if self.pools and sums != self.workers:
            raise ValueError(f"the pools have {list(sums)} workers in all, but workers is {list(self.world)}: omit it")
        if len({"GPU" in pool.resources for pool in self.pools.values()}) > 1:
            raise ValueError("pools with GPUs and pools without cannot work in one group")
        if self.world[0] < 1:
            raise ValueError("at least one worker is needed")
        if self.groups[0] > self.groups[1]:
            raise ValueError(
                f"no number of workers from {self.world[0]} to {self.world[1]} makes whole teams of {self.team_size}"
            )
        return self

    @property
    def groups(self) -> tuple[int, int]:
        """Fewest and most workers of a group, which is made of whole teams."""
        return -(-self.world[0] // self.team_size) * self.team_size, self.world[1] // self.team_size * self.team_size

    @property
    def team_size(self) -> int:
        """Workers of a team; 1 as long as it is to be found out."""
        return 1 if self.team == "auto" else self.team

    @property
    def world(self) -> tuple[int, int]:
        """Minimum and maximum number of workers; one if the spec leaves it open."""
        return self.workers or (1, 1)

    @property
    def is_open(self) -> bool:
        """Whether the machine decides the number of workers: the spec sets neither it nor resources or threads."""
        return self.workers is None and self.resources == {"CPU": 1} and (self.threads or 1) == 1

    @property
    def all_pools(self) -> dict[str, PoolConfig]:
        return self.pools or {"": PoolConfig(workers=self.world, resources=self.resources, peak_flops=self.peak_flops)}

    @property
    def worker_threads(self) -> int:
        return self.threads or max(1, int(min(pool.resources.get("CPU", 1) for pool in self.all_pools.values())))


class TrackerConfig(Section):
    model_config = ConfigDict(extra="allow")

    kind: str
    """Name of the tracker; an unknown name lists the installed ones. Further fields are its options."""

    @model_validator(mode="after")
    def _known(self) -> TrackerConfig:
        for value in (self.model_extra or {}).values():
            if isinstance(value, str):
                without_secret(value)
        check_installed("tracker", self.kind, TRACKERS)
        return self

    def build(self) -> Tracker:
        """Raises InputError for an option that it does not have."""
        return load_tracker(self.kind, self.model_extra or {})


class FaultConfig(Section):
    max_restarts: NonNegativeInt = 8
    """Failures in a row, without a completed step between them, after which a command gives up."""
    mirror_every: PositiveInt | Literal["never"] | None = None
    """Steps between copies of each worker's state into another worker's memory, on another node if possible; a fault repeats
    at most this many (default: two, or as many as take half a second; five seconds' worth if all workers are on one node).
    `never` saves that memory, and the loss of a worker goes back to the last checkpoint."""
    silence_s: PositiveFloat = 30
    """Seconds without a sign of life after which a worker counts as lost, even if its machine is up."""
    wait_s: PositiveFloat = 1800
    """Seconds without enough workers after which a command gives up."""
    storage_wait_s: PositiveFloat = 120
    """Seconds for which the last checkpoint and required reads are retried if storage fails."""

    @property
    def mirrors(self) -> bool:
        """Whether workers keep copies of each other's state."""
        return self.mirror_every != "never"


class GuardConfig(Section):
    max_skipped: NonNegativeInt = 16
    """Micro-batches with a non-finite loss or gradient that may be skipped before the run stops."""
    spike: PositiveFloat | None = None
    """Robust deviations above the running median at which a step's loss is a spike; its update is not made."""
    roll_back: PositiveInt | None = None
    """On a spike, go back to the last multiple of this many steps, and continue with the data after the spike."""
    recheck_every: PositiveInt | None = 1000
    """Steps between rechecks: all workers recompute one micro-batch, and a worker with other bits is excluded."""

    @model_validator(mode="after")
    def _goes_together(self) -> GuardConfig:
        if self.roll_back and self.spike is None:
            raise ValueError("roll_back needs spike, the deviations at which a loss is a spike")
        return self
