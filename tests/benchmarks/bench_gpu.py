"""This trainer on a GPU beside a plain PyTorch loop: `python -m tests.benchmarks.bench_gpu`.

The plain loop is what one would write without a platform: the same model and micro-batches, bf16 autocast, gradients summed in
fp32 by `backward`, torch's fused AdamW, clipping; whatever kernels torch chooses, no checkpoints, its data on the GPU
beforehand. Real text (the source of Python's standard library and of torch) in a BPE vocabulary; medians of the steady state.
MFU counts 6 FLOPs per parameter and token, and attention, against the peak of NVIDIA's data sheet.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from foundray.data.prepare.manifest import Prepared
from foundray.data.prepare.recipe import prepared_folder
from foundray.data.stream.plan import plan_for, read_micro_batches
from foundray.host.devices import traits
from foundray.model.flops import flops, known_peak
from foundray.model.model import Batch, Model, initialise
from foundray.spec import Spec
from foundray.spec.loading import load_spec
from foundray.testing.specs import write_spec
from foundray.training.step.kernels import compile_layers
from foundray.training.step.trainer import Trainer

WARM_UP, STEPS = 2, 6
TEXT_BYTES = 12_000_000
SIZES: dict[str, tuple[dict[str, int], int, int]] = {
    "124M": ({"width": 768, "depth": 12, "heads": 12, "context": 1024}, 8, 32),
    "1B": ({"width": 2048, "depth": 16, "heads": 16, "context": 1024}, 8, 16),
}
"""By name: the model's shape, micro-batches per step, samples per micro-batch."""
VARIANTS: dict[str, dict[str, Any]] = {
    "adamw, rounded": {"optimizer.kind": "adamw", "train.exact": False},
    "adamw, exact": {"optimizer.kind": "adamw"},
    "adamw8bit, exact": {"optimizer.kind": "adamw8bit"},
}


@dataclass
class Measured:
    name: str
    step_s: float
    tokens_per_s: float
    mfu: float
    peak_gb: float


def spec_of(size: str, source: str, storage: Path, documents: str = "file") -> dict[str, Any]:
    shape, micro_batches, samples = SIZES[size]
    return {
        "name": "bench",
        "data": {
            "sources": [{"path": source, "documents": documents}], "holdout": 0.01,
            "tokenizer": {"kind": "bpe", "vocab_size": 32768},
        },
        "objective": {"kind": "next_token"},
        "model": shape,
        "optimizer": {"kind": "adamw", "lr": 3e-4},
        "train": {
            "steps": 1000, "micro_batches": micro_batches, "micro_batch_size": samples,
            "evaluate_every": 10**6, "checkpoint_every": 10**6,
        },
        "scale": {"resources": {"CPU": 4, "GPU": 1}},
        "guard": {"recheck_every": None},
        "storage": str(storage),
    }  # fmt: skip


def text(folder: Path) -> Path:
    """One document, so that attention needs no mask; with `--documents`, every file is a document."""
    roots = [Path(sysconfig.get_paths()["stdlib"]), Path(torch.__file__).parent]
    files = sorted(file for root in roots for file in root.rglob("*.py"))
    whole = "".join(file.read_text(encoding="utf-8", errors="ignore") for file in files)
    (path := folder / "source.txt").write_text("".join(c for c in whole[: 2 * TEXT_BYTES] if c.isascii())[:TEXT_BYTES])
    return path


def measured(name: str, spec: Spec, classes: int, step: Callable[[int], object], count: int = STEPS) -> Measured:
    for number in range(WARM_UP):
        step(number)
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for number in range(WARM_UP, WARM_UP + count):
        torch.cuda.synchronize()
        began = time.perf_counter()
        step(number)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    took = statistics.median(seconds)
    peak = known_peak(torch.cuda.get_device_name()) or float("nan")
    of_peak = flops(spec, classes, 1) / took / peak
    return Measured(name, took, spec.tokens_per_step / took, of_peak, torch.cuda.max_memory_allocated() / 1e9)


def ours(spec: Spec, classes: int, payloads: list[bytes], turn: int) -> Callable[[int], object]:
    trainer = Trainer(spec, Model(spec.model, objective := spec.objective.build(), spec.unit_shape(classes)).cuda(), objective)
    trainer.initialise()

    def step(number: int) -> object:
        there = range(number * turn, (number + 1) * turn)
        return trainer.step(number, [(at, payloads[at % len(payloads)]) for at in there])

    return step


def plain(spec: Spec, classes: int, payloads: list[bytes], turn: int, compiled: bool = False) -> Callable[[int], object]:
    torch.use_deterministic_algorithms(False)
    device = torch.device("cuda")
    model = Model(spec.model, spec.objective.build(), spec.unit_shape(classes)).cuda()
    initialise(model, spec.seed)
    batches = [Batch.load(payload, device) for payload in payloads]
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    update = torch.optim.AdamW(groups, lr=spec.optimizer.lr, betas=spec.optimizer.betas, fused=True)

    def loss_of(batch: Batch) -> torch.Tensor:
        with traits(device).low_precision():
            logits = model(batch)["lm_head"]
        return F.cross_entropy(logits.flatten(0, 1).float(), batch.targets["lm_head"][0].flatten())  # type: ignore[union-attr]

    if compiled:
        compile_layers(model)

    def step(number: int) -> object:
        update.zero_grad(set_to_none=True)
        for at in range(number * turn, (number + 1) * turn):
            loss = loss_of(batches[at % len(batches)]) / turn
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        update.step()
        return loss.item()

    return step


def clean() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def beside(size: str, path: Path, compiled: bool) -> Iterator[Measured]:
    """Measure the plain loop and every variant."""
    checked = load_spec(path)
    prepared = Prepared.open(prepared_folder(checked)[0])
    classes, turn = prepared.manifest.vocabulary, checked.train.micro_batches
    payloads = list(read_micro_batches(plan_for(prepared, checked), 0, 2 * turn))
    makers: dict[str, Callable[[], Callable[[int], object]]] = {"plain loop": lambda: plain(checked, classes, payloads, turn)}
    for name, changes in VARIANTS.items():
        makers[name] = lambda changes=changes: ours(load_spec(path, changes), classes, payloads, turn)  # type: ignore[misc]
    if compiled:
        changes = VARIANTS["adamw8bit, exact"] | {"train.compile": True}
        makers["adamw8bit, exact, compiled"] = lambda: ours(load_spec(path, changes), classes, payloads, turn)
        makers["plain loop, compiled"] = lambda: plain(checked, classes, payloads, turn, True)
    for name, make in makers.items():
        try:
            yield measured(f"{size}: {name}", checked, classes, make())
        except Exception as error:
            print(f"{size}: {name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
        clean()


def by_ray(path: Path, size: str, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """A run as users make it: its own processes, data streamed by Ray Data, checkpoints and records."""
    import foundray

    steps = 30
    called = f"{size}-{name}".replace(" ", "-").replace(",", "")
    foundray.train(path, {"train.steps": steps, **changes, "name": called})
    run = Path(load_spec(path).storage) / called
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][10:]
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    kept = [event for event in events if event["event"] == "checkpoint"]
    return {
        "name": f"{size}: {name}, by Ray",
        "tokens_per_s": statistics.median(record["tokens_per_s"] for record in metrics),
        "data_wait": sum(record["data_wait_s"] for record in metrics) / sum(record["step_s"] for record in metrics),
        "checkpoint_s": [event["seconds"] for event in kept],
        "checkpoint_gb": [event["bytes"] / 1e9 for event in kept],
        "copy_s": max(record["copy_s"] for record in metrics),
    }


def main() -> None:
    import foundray

    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="*", default=list(SIZES))
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--documents", action="store_true")
    asked = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(sysconfig.get_paths()["stdlib"]) / "*.py" if asked.documents else text(Path(folder))
        for size in asked.sizes:
            (at := Path(folder) / size).mkdir()
            path = write_spec(at, spec_of(size, str(source), Path(folder) / "runs"))
            foundray.prepare(path)
            if asked.ray:
                print(json.dumps(by_ray(path, size, "adamw8bit, exact", VARIANTS["adamw8bit, exact"])), flush=True)
            for found in beside(size, path, asked.compiled):
                print(
                    f"{found.name:42}{found.step_s * 1e3:9.1f} ms per step{found.tokens_per_s:12,.0f} tokens/s"
                    f"{found.mfu:8.1%} MFU{found.peak_gb:8.1f} GB",
                    flush=True,
                )


if __name__ == "__main__":
    main()
