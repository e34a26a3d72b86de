"""Training loops as people write them without a platform: `python -m tests.benchmarks.plain_loops LOOP SPEC` prints tokens/s.

One process, the spec's shape, samples and schedule, one batch per step, torch's fused AdamW, gradients clipped; no
micro-batches, no sharding, no checkpoints, and the data in memory. Medians of the steady state.

`plain` has this platform's model and one thread, like the trainer beside it. `usual` is common practice: transformers' model of
the same shape and initial weights, and all threads.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foundray.contract import UnitShape, load_objective
from foundray.data.prepare.manifest import Prepared
from foundray.data.prepare.recipe import prepared_folder
from foundray.data.stream.plan import plan_for, read_samples
from foundray.exports import causal_lm
from foundray.model.model import Batch, Model, initialise
from foundray.spec import Spec
from foundray.spec.loading import load_spec
from foundray.training.step.schedule import lr_factor

WARM_UP = 10
Logits = Callable[[Tensor], Tensor]
"""Maps ids [B, T] to logits [B, T, V]."""


def plain(model: Model, spec: Spec) -> tuple[nn.Module, Logits]:
    torch.set_num_threads(1)

    def logits(shown: Tensor) -> Tensor:
        everywhere = torch.ones_like(shown, dtype=torch.bool)
        return model(Batch(shown, everywhere, None, None, None, {"lm_head": (shown, everywhere)}, padded=False))["lm_head"]

    return model, logits


def usual(model: Model, spec: Spec) -> tuple[nn.Module, Logits]:
    theirs = causal_lm.build(model, spec).train()
    return theirs, lambda shown: theirs(input_ids=shown, use_cache=False).logits


LOOPS = {"plain": plain, "usual": usual}


def tokens_per_s(loop: str, path: Path) -> float:
    spec = load_spec(path)
    prepared = Prepared.open(prepared_folder(spec)[0])
    size = spec.samples_per_step
    samples = read_samples(replace(plan_for(prepared, spec), micro_batch_size=size), 0, spec.train.steps)
    tokens = torch.tensor(samples.column("tokens").to_pylist())
    start = Model(spec.model, load_objective("next_token", {}), UnitShape(classes=prepared.manifest.vocabulary))
    initialise(start, spec.seed)
    model, logits = LOOPS[loop](start, spec)
    decayed, others = ([p for p in model.parameters() if (p.dim() > 1) is many] for many in (True, False))
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=spec.optimizer.betas, fused=True)
    seconds = []
    for step in range(spec.train.steps):
        began = time.perf_counter()
        batch = tokens[step * size : (step + 1) * size]
        shown, asked = batch[:, :-1], batch[:, 1:]
        loss = F.cross_entropy(logits(shown).flatten(0, 1), asked.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = spec.optimizer.lr * lr_factor(spec.schedule, step, spec.train.steps)
        optimizer.step()
        loss.item()
        seconds.append(time.perf_counter() - began)
    return spec.tokens_per_step / median(seconds[WARM_UP:])


def measured(loop: str, path: Path) -> float:
    """Run a loop in its own process. Returns tokens/s."""
    command = [sys.executable, "-m", "tests.benchmarks.plain_loops", loop, str(path)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


if __name__ == "__main__":
    print(tokens_per_s(sys.argv[1], Path(sys.argv[2])))
