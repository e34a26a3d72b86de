"""Kinds of GPUs by name, their memory, and the fleets that a plan is for; or this machine's CPU."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

from foundray.errors import InputError
from foundray.host.gpu_memory import MEMORY
from foundray.host.machine import cores, physical_cores
from foundray.host.threads import torch_threads
from foundray.model.flops import known_peak
from foundray.preflight.checkup.product import product
from foundray.spec import Spec, nearest

CPU = "CPU"
SHOWN = ("RTX 4090", "A100", "H100")
"""If none is named: a consumer card, and two that are usually rented."""
IN_A_MACHINE = 8
"""GPUs per machine, as in usual servers and clouds."""


@dataclass(frozen=True)
class Fleet:
    """A number of accelerators of one kind."""

    name: str
    count: int
    peak: float
    """FLOP/s per accelerator: dense matrix products in bf16; of a CPU in fp32, measured if not given."""
    memory: float
    """Bytes per accelerator; of a CPU, its part of this machine's main memory."""
    price: float | None
    """Price per accelerator and hour."""

    @property
    def label(self) -> str:
        return f"{self.count} x {self.name}"

    @property
    def on_gpu(self) -> bool:
        return self.name != CPU


def fleets(spec: Spec, asked: Sequence[str], prices: Sequence[str], peak_flops: float | None) -> list[Fleet]:
    """The fleets named as in `H100:8`, with prices as in `H100=2.5`; if none is named, the spec's own and some usual ones.

    Raises InputError.
    """
    wanted = list(dict.fromkeys(_named(text) for text in asked)) or list(_usual(spec).items())
    priced = dict(_price(text, dict(wanted)) for text in prices)
    found = []
    for name, count in wanted:
        if name == CPU:
            peak = peak_flops or spec.scale.peak_flops or _measured(spec.scale.worker_threads)
            memory = psutil.virtual_memory().total / count
        else:
            peak, memory = known_peak(f"NVIDIA {name}") or 0.0, MEMORY[name]
        found.append(Fleet(name, count, peak, memory, priced.get(name)))
    return found


def _usual(spec: Spec) -> dict[str, int]:
    most, team, pools = spec.scale.groups[1], spec.scale.team_size, spec.scale.all_pools.values()
    if any("GPU" in pool.resources for pool in pools):
        own = [_plain(pool.accelerator) for pool in pools if pool.accelerator]
        return dict.fromkeys([name for name in MEMORY if _plain(name) in own] or SHOWN, most)
    here = physical_cores() if spec.scale.is_open else min(most, cores() // spec.scale.worker_threads)
    return {CPU: max(team, here // team * team), **dict.fromkeys(SHOWN, team)}


def _measured(threads: int) -> float:
    """FLOP/s of a matrix product on this machine."""
    import torch

    with torch_threads(threads):
        return float(product(torch, torch.device("cpu"))["tflops"]) * 1e12


def _named(text: str) -> tuple[str, int]:
    name, _, count = text.partition(":")
    if count and not (count.isdecimal() and int(count)):
        raise InputError(f"--gpus {text}: the number after the colon is the number of GPUs, such as H100:8")
    return _known("--gpus", name), int(count or 1)


def _known(flag: str, name: str) -> str:
    """The name as in the table, whatever its case and dashes. Raises InputError."""
    plain = {_plain(known): known for known in (*MEMORY, CPU)}
    if (found := plain.get(_plain(name))) is None:
        near = nearest(_plain(name), list(plain))
        hint = next((f" (did you mean {known}?)" for key, known in plain.items() if f"'{key}'" in near), "")
        raise InputError(f"{flag}: no GPU named {name!r} is known{hint}; the known ones are: {', '.join(plain.values())}")
    return found


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().removeprefix("nvidia"))


def _price(text: str, wanted: Mapping[str, int]) -> tuple[str, float]:
    name, _, amount = text.partition("=")
    try:
        price = float(amount)
    except ValueError:
        price = -1.0
    if not 0 <= price < float("inf"):
        raise InputError(f"--price {text}: a price is per GPU and hour, such as H100=2.5")
    if (known := _known("--price", name)) not in wanted:
        raise InputError(f"--price {text}: the plan is for {', '.join(wanted)} and not for {known}; name it in --gpus too")
    return known, price
