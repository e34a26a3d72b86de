"""What a forecast of goodput assumes: every number with its range and where it is from."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Costs:
    """Seconds, unless a name says otherwise. A node is one worker."""

    nodes: int = 1000
    between_failures_s: float = 600.0
    replacement_s: float = 600.0
    silent: float = 0.1
    """Share of the failures that close no connection."""
    step_s: float = 5.0
    micro_batches: int = 16
    """Per node and step."""
    spare: float = 0.01
    """Share of the nodes without which a step takes no longer."""
    state_gb: float = 420.0
    move_gb_s: float = 100.0
    setup_s: float = 10.0
    """Communicator set-up at 1,000 ranks. At others it is in proportion."""
    closed_s: float = 0.1
    silence_s: float = 30.0
    gone_s: float = 5.0
    call_s: float = 0.05
    open_s: float = 0.1
    warm_s: float = 60.0
    mirror_every: int = 2
    mirror_overhead: float = 0.008
    checkpoint_block_s: float = 1.0
    fallback_s: float = 600.0
    """Interval between checkpoints of the elastic system, which needs one only if a shard and its replica are lost together."""
    storage_gb_s: float = 100.0
    restart_s: float = 120.0
    group_nodes: int = 16
    quorum_s: float = 1.0
    timeout_s: float = 60.0
    patient: bool = False
    """Whether joiners of the elastic system wait for the next break, unless they are worth a pause. The protocol does not."""

    @property
    def micro_s(self) -> float:
        return self.step_s / self.micro_batches

    @property
    def per_step(self) -> int:
        """Micro-batches per step."""
        return round(self.micro_batches * self.nodes * (1 - self.spare))

    @property
    def work_s(self) -> float:
        """Node-seconds of a step's work."""
        return self.per_step * self.micro_s

    def step(self, nodes: int) -> float:
        """Seconds of a step of so many nodes: its last micro-batches end it."""
        return math.ceil(self.per_step / nodes) * self.micro_s

    def setup(self, ranks: int) -> float:
        return self.setup_s * ranks / 1000

    def worth(self, nodes: int, more: int, pause_s: float) -> bool:
        """Tell whether `more` nodes make up for a pause before the next failure is to be expected."""
        return (1 - self.step(nodes + more) / self.step(nodes)) * self.between_failures_s > pause_s

    @property
    def move_s(self) -> float:
        """Time in which every node receives the whole state."""
        return self.state_gb / self.move_gb_s

    @property
    def storage_s(self) -> float:
        """Time in which storage takes or gives the state."""
        return self.state_gb / self.storage_gb_s

    @property
    def interval_s(self) -> float:
        """Interval between checkpoints: Daly 2006, equation 37. The next one begins when the one before is written."""
        block, mean = self.checkpoint_block_s, self.between_failures_s
        ratio = block / (2 * mean)
        best = math.sqrt(2 * block * mean) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - block if ratio < 1 else mean
        return max(best, self.storage_s)


@dataclass(frozen=True)
class Assumption:
    """A row of the table."""

    field: str
    low: float
    high: float
    what: str
    source: str
    checked: bool = True
    """Whether the source, or a report of it, was read; a judgement has none."""


JUDGEMENT = "judgement"
ASSUMPTIONS = (
    Assumption(
        "setup_s", 1, 60, "communicator set-up at 1,000 ranks, in proportion at others",
        "MegaScale (NSDI 2024): 1,047 s at 2,048 GPUs, under 5 s after its changes, under 30 s beyond 10,000; here 0.1 s for 3 "
        "workers with gloo", False,
    ),
    Assumption(
        "between_failures_s", 1800, 200, "mean time between failures, exponential",
        "given; Llama 3: 419 in 54 days on 16,384 GPUs, one in 3.1 hours",
    ),
    Assumption("silent", 0, 0.5, "share of the failures that close no connection", "Llama 3: 8.4 % were switches and cables"),
    Assumption("silence_s", 10, 120, "after which a silent node is lost, also with restarts", "`fault.silence_s`"),
    Assumption("step_s", 2, 20, "a step of all nodes", "70B parameters, 40M tokens, 8,000 GPUs of 400 TFLOP/s: " + JUDGEMENT),
    Assumption("micro_batches", 64, 4, "micro-batches per node and step; halting takes up to one", JUDGEMENT),
    Assumption("spare", 0, 0.05, "share of the nodes without which a step takes no longer", JUDGEMENT),
    Assumption("state_gb", 120, 2430, "of 20B, 70B and 405B parameters", "6 bytes per parameter, as here with 8-bit AdamW"),
    Assumption(
        "move_gb_s", 200, 20, "at which every node receives the state, GB/s",
        "a quarter of 8 x 400 Gb/s per node: " + JUDGEMENT,
    ),
    Assumption("warm_s", 20, 300, "warm-up of a new worker, in the background", "with CUDA and compilation: " + JUDGEMENT),
    Assumption("replacement_s", 60, 3600, "until another node is there", JUDGEMENT),
    Assumption("mirror_every", 1, 10, "steps between replications", "`fault.mirror_every`"),
    Assumption("mirror_overhead", 0, 0.03, "cost of replication per step", "here 0.8 % of a step, two workers"),
    Assumption("checkpoint_block_s", 0.1, 30, "by which a checkpoint delays training", "here 0.08 s for 259 MB, copied first"),
    Assumption("fallback_s", 60, 3600, "interval between checkpoints of the elastic system", JUDGEMENT),
    Assumption("storage_gb_s", 500, 20, "of storage for checkpoints, GB/s", "Llama 3: 2 TB/s sustained for 16,384 GPUs"),
    Assumption(
        "restart_s", 30, 600, "processes, imports, compilation and data of a restart, without set-up and state",
        "Ray Train here: 74.7 s in all, 3 workers; FT-HSDP (arXiv 2602.00277): 600 s in all, about 100,000 GPUs",
    ),
    Assumption("group_nodes", 4, 64, "nodes per replica group", JUDGEMENT),
    Assumption(
        "quorum_s", 0.2, 60, "a quorum of replica groups, without set-up",
        "torchft: a heartbeat per 0.1 s; FT-HSDP: stalls of 180 s in all, about 100,000 GPUs",
    ),
    Assumption(
        "timeout_s", 10, 600, "after which replica groups leave a collective with a silent node",
        "torchft: `Manager(timeout=60 s)`",
    ),
)  # fmt: skip
