"""Memory and speed of a step whose model is split over workers, beside PyTorch's FSDP2: `make bench-sharded`.

Processes without Ray: ours share memory, as workers of one machine do; FSDP2's collectives are gloo's. Each trains the same
shape of model on as many tokens per step: FSDP2 (`fully_shard`, every layer) with torch's AdamW, and a team with exact and
rounded sums and both AdamW. Peak and resting bytes are above what the process had before it made a model. A setting of glibc
makes it give freed memory back, for all of them. `SAMPLES` and `STEPS` in the environment change the work.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tests.benchmarks.small_runs import machine
from torch import nn
from torch.nn import functional as F

from foundray.contract import Units
from foundray.data.stream.batch import packed
from foundray.spec import Spec
from foundray.testing.specs import make_spec
from foundray.testing.trainers import make_team_trainer, make_trainer
from foundray.training.collectives.group import Group, listen
from foundray.training.footprint import footprint

VOCABULARY, WIDTH, DEPTH, HEADS, CONTEXT = 8192, 640, 10, 10, 128
SAMPLES, MICRO_BATCHES, STEPS = int(os.environ.get("SAMPLES", "2")), 2, int(os.environ.get("STEPS", "6"))
"""Samples per micro-batch, micro-batches per worker and step, and steps: processes that are started take them from here."""
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
SYSTEMS: dict[str, dict[str, Any]] = {
    "FSDP2, AdamW": {},
    "rounded, AdamW": {"train__exact": False, "optimizer__kind": "adamw"},
    "exact, AdamW": {"optimizer__kind": "adamw"},
    "exact, 8-bit AdamW": {"optimizer__kind": "adamw8bit"},
}


def resident() -> int:
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


class Peak:
    """The most resident bytes while it is entered."""

    def __enter__(self) -> Peak:
        self.most, self.ended = 0, False
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.ended:
            self.most = max(self.most, resident())
            time.sleep(0.002)

    def __exit__(self, *_: object) -> None:
        self.ended = True
        self.thread.join()


def spec_of(world: int, changes: dict[str, Any]) -> Spec:
    shape = {"model__width": WIDTH, "model__depth": DEPTH, "model__heads": HEADS, "model__context": CONTEXT}
    train = {"train__micro_batches": MICRO_BATCHES * world, "train__micro_batch_size": SAMPLES}
    return make_spec(**shape, **train, **changes)


def ours(group: Group, changes: dict[str, Any], team: bool) -> tuple[Callable[[int], None], int]:
    """A step as a function of its number, and the model's parameters."""
    rank, world = group.rank, group.world
    spec = spec_of(world, changes)
    objective = spec.objective.build()
    trainer = make_team_trainer(spec, group, world, VOCABULARY) if team else make_trainer(spec, group, vocabulary=VOCABULARY)
    per_step = spec.train.micro_batches

    def step(number: int) -> None:
        mine = []
        for index in range(rank, per_step, world):
            rng = np.random.default_rng([number, index])
            ids = rng.integers(1, VOCABULARY, (SAMPLES, CONTEXT + 1))
            shape = spec.unit_shape(VOCABULARY)
            plans = [objective.plan(Units(row, np.zeros(len(row), np.int64), shape), rng) for row in ids]
            mine.append((number * per_step + index, packed(plans)))
        trainer.step(number, mine)

    return step, sum(torch.Size(entry.shape).numel() for entry in trainer.layout.entries)


class Block(nn.Module):
    """A layer of the same shape as ours."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(WIDTH) for _ in range(2))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        hidden = spec_of(1, {}).model.hidden_width
        self.gate, self.up = (nn.Linear(WIDTH, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (y.unflatten(-1, (HEADS, -1)).transpose(1, 2) for y in self.qkv(self.norms[0](x)).split(WIDTH, 2))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        y = self.norms[1](x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(VOCABULARY, WIDTH), nn.RMSNorm(WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embedding(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def fsdp2(world: int) -> tuple[Callable[[int], None], int]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (world,))
    with torch.device("meta"):
        network = Network()
    for block in network.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    network.to_empty(device="cpu")
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.02) if parameter.dim() > 1 else nn.init.ones_(parameter)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=True)

    def step(number: int) -> None:
        for _ in range(MICRO_BATCHES):
            ids = torch.randint(0, VOCABULARY, (SAMPLES, CONTEXT + 1))
            logits = network(ids[:, :-1]).float()
            F.cross_entropy(logits.view(-1, VOCABULARY), ids[:, 1:].reshape(-1)).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step, sum(parameter.numel() for parameter in network.parameters())


def estimated(world: int, system: str, team: bool) -> str:
    """Bytes per parameter that a plan counts. The process itself takes 22 MB more alone, and 94 MB with gloo."""
    if system.startswith("FSDP2") or (team and world == 1):  # a run forms no teams of one
        return ""
    spec = spec_of(world, SYSTEMS[system] | {"scale__workers": world, "scale__team": world if team else 1})
    held = footprint(spec, VOCABULARY, world, on_gpu=False)
    return f", estimated {held.total * 4 / (held.weights * (world if team else 1)):.2f}"


def worker(rank: int, world: int, system: str, team: bool, port: int) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world))
    group = Group()
    if system.startswith("FSDP2"):
        dist.init_process_group("gloo", rank=rank, world_size=world)
        dist.barrier()
    elif world > 1:
        store = listen("127.0.0.1", port) if rank == 0 else None
        group = Group.gather_at(("127.0.0.1", port), rank, world, torch.device("cpu"), store)
    before, times = resident(), []
    with Peak() as peak:
        step, parameters = fsdp2(world) if system.startswith("FSDP2") else ours(group, SYSTEMS[system], team)
        for number in range(STEPS):
            began = time.perf_counter()
            step(number)
            times.append(time.perf_counter() - began)
    if rank == 0:
        most, rest = (size / parameters for size in (peak.most - before, resident() - before))
        tokens = SAMPLES * MICRO_BATCHES * CONTEXT * world / statistics.median(times[1:])
        name = system if team else f"{system}, each all of it"
        memory = f"peak {most:6.2f}  rest {rest:6.2f} bytes per parameter{estimated(world, system, team)}"
        print(f"{world} workers  {name:40}{memory}  {tokens:8,.0f} tokens/s", flush=True)
    if dist.is_initialized():
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    options = parser.parse_args()
    os.environ.update(GIVE_BACK)
    print(machine(), flush=True)
    port = 29800
    for world in options.workers:
        for system, team in [*((system, True) for system in options.systems), ("exact, AdamW", False)]:
            port += 1
            mp.spawn(worker, args=(world, system, team, port), nprocs=world)


if __name__ == "__main__":
    main()
