"""Training with equal shares of micro-batches, as in other trainers: the peer of shares by speed.

`python -m tests.benchmarks.equal_shares SPEC NAME` with RAY_ADDRESS set; nodes need the repository on PYTHONPATH.
"""

from __future__ import annotations

import sys
from typing import Any

from foundray.data.stream import division, feeder


class EqualFeeder(feeder._Feeder):
    def __init__(self) -> None:
        division.FIRST = 1.0
        super().__init__()

    async def lease(self, generation: int, name: str, step: int, rank: int, seconds: float) -> feeder.Lease:
        return await super().lease(generation, name, step, rank, 1.0)


def start_equal_feeder() -> Any:
    import ray

    return ray.remote(EqualFeeder).options(num_cpus=0, max_restarts=-1, max_concurrency=1000).remote()


if __name__ == "__main__":
    from tests.benchmarks import equal_shares

    import foundray

    feeder.start_feeder = equal_shares.start_equal_feeder
    print(foundray.train(sys.argv[1], {"name": sys.argv[2]}).to_json())
