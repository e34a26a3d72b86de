"""Do learning rates transfer from width 64 to width 256: the best of a grid of factor 2, by width and parametrisation?

`python -m tests.benchmarks.bench_transfer [--mirror FOLDER]`, on tinyshakespeare: 54 runs of 200 steps and three seeds each,
about a quarter of an hour on two cores. The table is printed, and drawn to runs/transfer.svg.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tests.benchmarks.bench_examples import EXAMPLES, get_data

import foundray
from foundray.cluster import cores
from foundray.data.feeder import validation_plan
from foundray.data.manifest import Prepared
from foundray.data.stream import plan_for
from foundray.loading import load_spec
from foundray.storage import Store
from foundray.tuning import pictures
from foundray.tuning.proxy import with_values
from foundray.tuning.table import aligned
from foundray.tuning.trial import Job, run

SPEC = "examples/shakespeare/spec.yaml"
WIDTHS = 64, 256
RATES = tuple(2.0**power for power in range(-9, -3))
SEEDS = 1, 2, 3
STEPS = 200
SIZE: dict[str, Any] = {"model.depth": 2, "model.context": 64, "train.micro_batches": 2, "train.micro_batch_size": 4}
BASE = WIDTHS[0]
RUNS = [("CompleteP", width, BASE) for width in WIDTHS] + [("standard", WIDTHS[1], None)]
"""Both are the same at the base's width."""


def loss(folder: str, prepared: str, width: int, base: int | None, rate: float, seed: int) -> float:
    """Over the validation split, after training."""
    size = {"model.width": width, "model.heads": width // 32, "model.base_width": base, "train.steps": STEPS}
    spec = load_spec(SPEC, SIZE | size | {"optimizer.lr": rate, "seed": seed})
    spec = with_values(spec, {"scale.workers": [1, 1], "scale.threads": 1})
    opened = Prepared.open(Store.at(prepared))
    plan = plan_for(opened, spec)
    judging = validation_plan(plan, 32)
    whole = tuple(range(-(-plan.order().validation_samples // 32)))
    place = f"{folder}/{width}-{base}-{rate}-{seed}"
    found = []
    run(Job(place, spec.model_dump_json(), plan, opened.manifest.vocabulary, (STEPS,), judging, whole), found.append)
    return found[-1].val_loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mirror")
    get_data(EXAMPLES["shakespeare"], parser.parse_args().mirror)
    prepared = foundray.prepare(SPEC, SIZE).folder.url
    tasks = [(width, base, rate, seed) for _, width, base in RUNS for rate in RATES for seed in SEEDS]
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(cores(), context) as pool:
        losses = dict(zip(tasks, pool.map(partial(loss, folder, prepared), *zip(*tasks, strict=True)), strict=True))
    means = {
        (title, width): [mean(losses[width, base, rate, seed] for seed in SEEDS) for rate in RATES]
        for title, width, base in [*RUNS, ("standard", BASE, BASE)]
    }
    spreads = {
        (title, width): [stdev(losses[width, base, rate, seed] for seed in SEEDS) for rate in RATES]
        for title, width, base in [*RUNS, ("standard", BASE, BASE)]
    }
    columns = [("CompleteP", width) for width in WIDTHS] + [("standard", WIDTHS[1])]
    table = [["rate", *(f"{title} {width}" for title, width in columns)]]
    for at, rate in enumerate(RATES):
        table.append([f"{rate:.5f}", *(f"{means[column][at]:.4f} ± {spreads[column][at]:.4f}" for column in columns)])
    print(f"validation loss after {STEPS} steps, nats a character; mean and deviation of {len(SEEDS)} seeds\n{aligned(table)}")
    facts = {}
    for title in ("CompleteP", "standard"):
        narrow, wide = (means[title, width] for width in WIDTHS)
        carried, best = narrow.index(min(narrow)), wide.index(min(wide))
        facts[title] = {"moved": best - carried, "lost": wide[carried] - wide[best]}
        print(
            f"{title}: the best rate is {RATES[carried]:.5f} at width {WIDTHS[0]} and {RATES[best]:.5f} at width {WIDTHS[1]} "
            f"({best - carried:+d} steps of factor 2); the rate carried costs {wide[carried] - wide[best]:.4f} nats"
        )
    curves = {
        title: {w: list(zip(RATES, means[title, w], spreads[title, w], strict=True)) for w in WIDTHS}
        for title in ("CompleteP", "standard")
    }
    pictures.save(pictures.transfer(curves), Store.at(Path("runs/transfer.svg")))
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
