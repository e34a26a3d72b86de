"""Imports of each kind of process at its start: no heavy package that it does not need, and a limited number of modules.

Every run pays for these imports once per process. They are read from Python's own report (`-X importtime`), which also shows,
if a test fails, what took the time.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.repository import REPOSITORY

HEAVY = {
    "torch._dynamo",
    "sympy",
    "torch",
    "bitsandbytes",
    "ray",
    "ray.data",
    "ray.train",
    "ray.tune",
    "pandas",
    "pyarrow",
    "pydantic",
    "rich",
    "tokenizers",
}

CLI = "import contextlib\nfrom foundray.cli import main\nwith contextlib.suppress(SystemExit):\n    main({})"
COMPUTING = """
import torch
from foundray.testing.specs import make_spec
from foundray.training.elastic.canary import hardware_kind
from foundray.training.step.blocks import Blocks
from foundray.training.step.flat import Entry, Layout
from foundray.spec.optimizers import KINDS
from foundray.training.step.optimizers.shard import ShardOptimizer
from foundray.model.parametrisation import Scaling
spec = make_spec()
hardware_kind(spec.model, True, torch.device("cpu"))
for name in KINDS:
    layout = Layout((Entry("weight", (1000,), 0, 4, Scaling()),))
    kind = spec.optimizer.model_copy(update={"kind": name})
    optimizer = ShardOptimizer(kind, layout, Blocks((range(4),)), torch.randn(1024))
    optimizer.step(1, 1e-3, torch.randn(1024))
"""
"""Code of a worker that has computed its canary, and made an update of each kind."""
Stage = tuple[str, str, set[str], int]
PROCESSES: dict[str, list[Stage]] = {
    "help": [("a command's help", CLI.format(["--help"]), set(), 200)],
    "status": [("foundray status", CLI.format(["status", "{run}"]), {"pyarrow", "pydantic"}, 500)],
    "driver": [
        # Ray reads the cluster's token once, when it is imported: so not before the driver knows of it.
        ("the driver, before it knows of Ray", "import foundray.training.driver", {"pyarrow", "pydantic", "tokenizers"}, 600),
        (
            "the driver",
            "import foundray.training.elastic.prestart, foundray.training.slots.slots, foundray.training.elastic.coordinator",
            {"pyarrow", "pydantic", "tokenizers", "ray"},
            1200,
        ),
    ],
    "board": [("the board, and who holds a place", "import foundray.training.slots.board", {"ray"}, 850)],
    "worker": [
        ("a worker, until it answers", "import foundray.training.elastic.worker", {"pyarrow", "pydantic", "ray"}, 1150),
        ("a worker", "import foundray.training.elastic.loop", {"pyarrow", "pydantic", "ray", "torch"}, 2200),
        ("a worker that computes", COMPUTING, {"pyarrow", "pydantic", "ray", "torch", "bitsandbytes"}, 2700),
    ],
    "feeder": [
        (
            "the feeder, until Ray Data is needed",
            "import foundray.data.stream.feeder, foundray.data.stream.parcels",
            {"pyarrow", "pydantic", "ray"},
            1500,
        ),
        (
            "the feeder",
            "import foundray.data.stream.datasets",
            {"pyarrow", "pydantic", "ray", "ray.data", "pandas"},
            1800,
        ),
    ],
}
"""By process, what it does one after another: code, and the heavy packages and number of modules that it may have by then."""
REACHED = "reached: "


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_imports_what_it_needs(process: str, tmp_path: Path) -> None:
    stages = PROCESSES[process]
    code = "\n".join(f"{code}\nimport sys; print('{REACHED}', file=sys.stderr)" for _, code, _, _ in stages)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code.replace("{run}", str(tmp_path))],
        cwd=REPOSITORY, capture_output=True, text=True,
    )  # fmt: skip
    *reports, rest = done.stderr.split(REACHED)
    assert len(reports) == len(stages), rest[-2000:]
    for number, (stage, _, needed, most) in enumerate(stages):
        times = imports("".join(reports[: number + 1]))
        assert "foundray" in times, done.stderr[-2000:]
        longest = sorted(times.items(), key=lambda item: -item[1])[:20]
        assert HEAVY & times.keys() <= needed, (stage, longest)
        assert len(times) <= most, (stage, longest)


def imports(account: str) -> dict[str, int]:
    """Microseconds per imported module, including its own imports, by name."""
    lines = [line.removeprefix("import time:").split("|") for line in account.splitlines() if line.startswith("import time:")]
    return {name.strip(): int(whole) for _, whole, name in lines if whole.strip().isdigit()}
