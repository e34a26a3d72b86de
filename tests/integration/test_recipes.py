"""The recipes of CONTRIBUTING.md, followed in a copy of the code: a file and its registration add one of each kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.command import foundray_in_turn
from tests.repository import REPOSITORY

from foundray.testing.specs import small_spec, write_spec

PACKAGE = {
    "own.py": """
from typing import ClassVar

import numpy as np
from foundray.contract import Modality, Objective, Plan, Target, cross_entropy

class Shifted(Modality):
    gives: ClassVar[str] = "tokens"

class NextTokenGap(Objective):
    gap: float = 0.5

    def heads(self, shape):
        return {"lm_head": shape.classes}

    def plan(self, units, rng):
        asked = np.arange(len(units) - 1) >= rng.integers(0, int(self.gap * len(units)))
        return Plan(units[:-1], (Target("lm_head", units.x[1:], asked),))

    def loss(self, prediction, target, where):
        return cross_entropy(prediction, target, where)
""",
    "own-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: own\nVersion: 1.0\n",
    "own-1.0.dist-info/entry_points.txt": (
        "[foundray.modalities]\nshifted = own:Shifted\n[foundray.objectives]\nnext_token_gap = own:NextTokenGap\n"
    ),
}
FILES = {
    "data/formats/shout.py": """
from foundray.data.formats.row import Document
from foundray.data.formats.text import read as plain

def read(handle, path, source):
    for row in plain(handle, path, source):
        yield Document(row.text.upper(), row.position) if isinstance(row, Document) else row
""",
    "training/step/optimizers/signum.py": """
import torch

class Signum(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                momentum = self.state[parameter]["momentum"].lerp_(parameter.grad, 1 - group["beta"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(momentum.sign(), alpha=-group["lr"])

def signum(spec, groups):
    update = Signum(groups, {"lr": spec.lr, "beta": spec.betas[0]})
    for group in groups:
        for parameter in group["params"]:
            update.state[parameter] = {"step": 0, "momentum": torch.zeros_like(parameter)}
    return update
""",
    "cli/hello.py": """
import json
from foundray.cli.parsing import Verbs
from foundray.records.schema import MEASURES
from foundray.runs.checkpoints import completed_steps
from foundray.runs.run import Run
from foundray.records.values import SCALARS
from foundray.training.telemetry.metrics import METRICS

def add_to(verbs: Verbs) -> None:
    verbs.add("hello", hello, "count a run's checkpoints", "RUN", shows=True)

def hello(options) -> None:
    steps = completed_steps(Run.open(options.target).folder / "checkpoints")
    print(json.dumps({"steps": steps, "shown": "weight_norm" in {*MEASURES} & {*SCALARS} & {*METRICS}}))
""",
}
REGISTERED = [
    ("spec/formats.py", '    Format("webdataset"', '    Format("shout", "shouted text", "shout", (".shout",)),\n'),
    (
        "spec/optimizers.py",
        ")  # fmt: skip\n\nKINDS",
        '    OptimizerKind("signum", "signSGD", "signSGD", "signum:signum", {"momentum": "float32"}),\n',
    ),
    ("cli/__init__.py", '"schema", "completion"', '"hello", '),
    (
        "records/schema/step.py",
        "    lr: float\n",
        '    weight_norm: Annotated[float | None, Measure("weight_norm", "Norm of the weights", least=0)] = None\n',
    ),
    ("training/step/outcome.py", "    tokens: int\n    grad_norm", "    weight_norm: float\n"),
    ("training/step/trainer.py", "tokens_sum, norm, lr, takers", "self._norm(part(self.buffer, self.own)), "),
]
"""A file, a place in it, and what is put before that place."""


@pytest.fixture
def followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What all recipes add, in a copy of the code that commands find first."""
    (site := tmp_path / "site").mkdir()
    engine = shutil.copytree(
        REPOSITORY / "platform" / "foundray", site / "foundray", ignore=shutil.ignore_patterns("__pycache__")
    )
    for folder, files in ((site, PACKAGE), (engine, FILES)):
        for name, text in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
    for name, place, line in REGISTERED:
        before, found, after = (engine / name).read_text().partition(place)
        assert found, f"{name} has no {place!r}"
        (engine / name).write_text(before + line + found + after)
    monkeypatch.setenv("PYTHONPATH", str(site))


@pytest.mark.thorough
def test_what_the_recipes_add_trains_to_the_same_weights_with_one_and_two_workers(
    followed: None, prose: Path, tmp_path: Path
) -> None:
    shutil.copy(prose, text := tmp_path / "prose.shout")
    spec = small_spec(
        text, tmp_path / "runs", objective={"kind": "next_token_gap"}, data__modality={"kind": "shifted"},
        optimizer={"kind": "signum", "lr": 1e-3}, train__steps=6, scale__resources={"CPU": 0.5},
    )  # fmt: skip
    path = write_spec(tmp_path, spec)
    of1, of2, audit, hello = foundray_in_turn(
        *(("train", path, "--set", f"name=of{n}", "--set", f"scale.workers={n}", "--json") for n in (1, 2)),
        ("audit", tmp_path / "runs/of2", "--json"),
        ("hello", tmp_path / "runs/of2"),
        on_one_ray=True,
    )
    assert of1.facts["weights_sha256"] == of2.facts["weights_sha256"]
    lines = [json.loads(line) for line in (tmp_path / "runs/of2/metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 6 and all(line["weight_norm"] > 0 for line in lines)
    assert audit.facts["clean"]
    assert hello.facts == {"steps": [6, 5, 4], "shown": True}
