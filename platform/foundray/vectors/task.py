"""Finds the weights that embed, and tries the network on one sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import torch as safetensors
from torch import Tensor

from foundray.contract import Plan, Units
from foundray.data.files.files import RawFile
from foundray.data.prepare.reader import Reader
from foundray.data.stream.batch import packed
from foundray.errors import InputError
from foundray.evaluation.encoder import POOLS, check_pool, trained_weights
from foundray.runs.checkpoints import completed_steps
from foundray.runs.run import Run
from foundray.spec import SourceConfig
from foundray.spec.arithmetic import installed, of_data
from foundray.training.checkpoints.checkpoint import sha256_of
from foundray.vectors.blocks import BATCH_UNITS, rows_per_block
from foundray.vectors.recipe import Recipe
from foundray.vectors.worker import Embedder, Task

if TYPE_CHECKING:
    from foundray.vectors.embed import Options


def prepared(
    run: Run,
    reader: Reader,
    source: SourceConfig,
    files: list[RawFile],
    options: Options,
    resources: Mapping[str, float],
    began: Recipe | None,
) -> tuple[Task, bytes, Recipe]:
    """The workers' task, the weights (safetensors) and the recipe; the weights are those of `began`, if given.

    Raises InputError for a pool or layer that the network does not have, and for a run without a usable checkpoint.
    """
    pools = [*(name for name in POOLS if name != "flatten"), "class"]
    if options.pool not in pools:
        raise InputError(f"--pool {options.pool}: it must be one of {', '.join(pools)}")
    check_pool(run.spec(), options.pool)
    step, weights, sha = weights_for(run, began)
    threads = max(1, int(resources.get("CPU", 1)))
    device = "cuda" if resources.get("GPU", 0) else "cpu"
    spec, vocabulary = run.spec(), run.manifest()["vocabulary"]
    task = Task(spec, vocabulary, options.layer, options.pool, options.normalise, device, threads)
    recipe = Recipe(
        run=run.folder.url,
        step=step,
        weights_sha256=sha,
        layer=options.layer,
        pool=options.pool,
        normalise=options.normalise,
        width=_width(task, weights, reader),
        modality=spec.data.modality.kind,
        arithmetic=of_data(installed(spec)),
        source=source,
        files={file.url: (file.size, file.modified_ns) for file in files},
        block_rows=rows_per_block(reader),
        batch_units=BATCH_UNITS[device],
        device=device,
        threads=threads,
    )
    return task, safetensors.save(weights), recipe


def weights_for(run: Run, began: Recipe | None) -> tuple[int, dict[str, Tensor], str]:
    """Step, weights and their SHA-256: the newest, or those of `began`. Raises InputError."""
    step = None
    if began is not None:
        if began.step not in (steps := completed_steps(run.checkpoints, run.lineage())):
            existing = ", ".join(f"{step:,}" for step in steps) or "none"
            raise InputError(
                f"the vectors were made by step {began.step:,}, but {run.folder} no longer has a complete checkpoint of it "
                f"(it has {existing}): embed again, into another folder"
            )
        step = began.step
    step, weights = trained_weights(run, step)
    sha = sha256_of(weights)
    if began is not None and sha != began.weights_sha256:
        raise InputError(
            f"the vectors were made by other weights ({began.weights_sha256[:16]}…) than those of {run.folder} at step "
            f"{step:,} ({sha[:16]}…): give the run that made them, or embed again, into another folder"
        )
    return step, weights, sha


def embedder(run: Run, recipe: Recipe) -> tuple[Embedder, Reader]:
    """Load, on this machine, the embedder and reader of a recipe. Raises InputError if the run no longer has the weights."""
    _, weights, _ = weights_for(run, recipe)
    vocabulary = run.manifest()["vocabulary"]
    pool: Any = recipe.pool
    task = Task(run.spec(), vocabulary, recipe.layer, pool, recipe.normalise, "cpu", recipe.threads)
    return Embedder(task, weights), Reader(run)


def _width(task: Task, weights: dict[str, Tensor], reader: Reader) -> int:
    """Length of a vector, found by embedding an empty sample."""
    shape, length = reader.shape, reader.length
    x: Any = np.zeros(length, np.int64) if shape.classes else np.zeros((length, shape.width), np.float32)
    on_cpu = Task(task.spec, task.vocabulary, task.layer, task.pool, task.normalise, "cpu", task.threads)
    return Embedder(on_cpu, weights)(packed([Plan(Units(x, None, shape), ())])).shape[1]
