"""On what a run runs, and what is done when something goes wrong there."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from foundray.spec.section import Section


def _as_pair(value: object) -> object:
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


Range = Annotated[tuple[NonNegativeInt, PositiveInt], BeforeValidator(_as_pair)]


def _ordered(workers: tuple[int, int]) -> tuple[int, int]:
    if workers[0] > workers[1]:
        raise ValueError(f"the fewest come first: [{workers[1]}, {workers[0]}]")
    return workers


class PoolConfig(Section):
    workers: Annotated[Range, AfterValidator(_ordered)]
    """Fewest and most workers of this pool, or one number for both."""
    resources: dict[str, PositiveFloat] = Field(default={"CPU": 1})
    """What Ray reserves for each of its workers, such as `{CPU: 4, GPU: 1}`."""
    accelerator: str | None = None
    """Ray's name of the accelerator that its nodes have, such as `A100`."""
    labels: dict[str, str] = Field(default={})
    """Ray's labels that its nodes have, as a label selector: `{zone: "in(a,b)"}`."""
    peak_flops: PositiveFloat | None = None
    """FLOP/s that a worker's hardware can do at most, for MFU (default: known from the GPU's name, as far as it is)."""


class ScaleConfig(Section):
    workers: Annotated[Range, AfterValidator(_ordered)] | None = None
    """Fewest and most workers, or one number for both; what fits the cluster runs (default: the sum of the pools'; without
    `resources` and `threads`, on one machine, up to one for each of its cores, as memory allows; otherwise one)."""
    resources: dict[str, PositiveFloat] = Field(default={"CPU": 1})
    """What Ray reserves for each worker, such as `{CPU: 4, GPU: 1}`."""
    pools: dict[str, PoolConfig] = Field(default={})
    """Kinds of machines by a name of your own, mixed in one group; in place of `workers`, `resources` and `peak_flops`."""
    peak_flops: PositiveFloat | None = None
    """FLOP/s that a worker's hardware can do at most, for MFU (default: known from the GPU's name, as far as it is)."""
    threads: PositiveInt | None = None
    """CPU threads a worker computes with (default: the whole CPUs it holds). Another number may round differently, so a run
    keeps the one that it began with."""

    @model_validator(mode="before")
    @classmethod
    def _sum_of_pools(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("pools") and not fields.get("workers"):
            with contextlib.suppress(ValidationError):  # told where the pool is checked
                pools = [PoolConfig.model_validate(pool).workers for pool in fields["pools"].values()]
                return {**fields, "workers": [sum(fewest for fewest, _ in pools), sum(most for _, most in pools)]}
        return fields

    @model_validator(mode="after")
    def _consistent(self) -> ScaleConfig:
        sums = tuple(sum(pool.workers[end] for pool in self.pools.values()) for end in (0, 1))
        if self.pools and sums != self.workers:
            raise ValueError(f"the pools have {list(sums)} workers together, and workers is {list(self.world)}: leave it out")
        if len({"GPU" in pool.resources for pool in self.pools.values()}) > 1:
            raise ValueError("pools with GPUs and pools without cannot work in one group")
        if self.world[0] < 1:
            raise ValueError("at least one worker is needed")
        return self

    @property
    def world(self) -> tuple[int, int]:
        """Fewest and most workers: one, where the spec leaves that open and nobody has chosen yet."""
        return self.workers or (1, 1)

    @property
    def is_open(self) -> bool:
        """Whether the spec leaves it to the machine how many workers there are, and says nothing of what each takes."""
        return self.workers is None and self.resources == {"CPU": 1} and (self.threads or 1) == 1

    @property
    def all_pools(self) -> dict[str, PoolConfig]:
        return self.pools or {"": PoolConfig(workers=self.world, resources=self.resources, peak_flops=self.peak_flops)}

    @property
    def worker_threads(self) -> int:
        return self.threads or max(1, int(min(pool.resources.get("CPU", 1) for pool in self.all_pools.values())))


class FaultConfig(Section):
    max_restarts: NonNegativeInt = 8
    """Failures in a row, without a step done in between, after which a command gives up."""
    mirror_every: PositiveInt | None = None
    """Steps between copies of every worker's state into the memory of another, on another node if there is one: at most so many
    are repeated (default: 2, or as many as take half a second; five seconds if all workers are on one node)."""
    silence_s: PositiveFloat = 30
    """Seconds after which a worker that says nothing, though its machine is there, is taken for lost."""
    wait_s: PositiveFloat = 1800
    """Seconds without enough workers after which a command gives up."""
    storage_wait_s: PositiveFloat = 120
    """Seconds for which the last checkpoint, and what has to be read, are tried again where storage fails."""


class GuardConfig(Section):
    max_skipped: NonNegativeInt = 16
    """Micro-batches with a loss or gradient that is not finite that are left out before the run stops."""
    spike: PositiveFloat | None = None
    """Robust deviations above the running median from which on a step's loss is a spike, and its update is not made."""
    roll_back: PositiveInt | None = None
    """On a spike, go back to the last multiple of so many steps, and on with the data that follow the spike."""
    recheck_every: PositiveInt | None = 1000
    """Steps between rechecks: all workers compute a micro-batch once more, and one that gets other bits is left out."""

    @model_validator(mode="after")
    def _goes_together(self) -> GuardConfig:
        if self.roll_back and self.spike is None:
            raise ValueError("roll_back needs spike: the deviations from which on a loss is one")
        return self
