"""Do learning rates transfer from width 64 to width 256: the best of a grid of factor 2, with CompleteP and without?

`python -m tests.benchmarks.bench_transfer [--mirror FOLDER]`, on tinyshakespeare: 54 runs of 200 steps, three seeds each, about
a quarter of an hour on two cores. The table is printed, and drawn to runs/shakespeare-transfer/.
"""

from __future__ import annotations

import argparse

from tests.benchmarks.bench_examples import EXAMPLES, get_data

import foundray

SIZE = {"model.width": 256, "model.heads": 8, "model.depth": 2, "model.context": 64, "train.micro_batches": 2}
STEP = {"train.micro_batch_size": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mirror")
    get_data(EXAMPLES["shakespeare"], parser.parse_args().mirror)
    rates = [2.0**power for power in range(-9, -3)]
    found = foundray.transfer("examples/shakespeare/spec.yaml", [64, 256], rates, SIZE | STEP, report=print)
    print(found.table())


if __name__ == "__main__":
    main()
