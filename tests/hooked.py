"""An objective in its own package, as a third party would add one, that misbehaves on request.

It is `next_token`, but its loss is slower or wrong on nodes whose environment says so, or for chosen samples (`hooked_text`
also continues texts); or it is `joint_embedding`, whose teacher is a part of the state, and is only slower.
"""

from __future__ import annotations

from pathlib import Path

import foundray as api
from foundray.data.stream.plan import plan_for, read_samples
from foundray.spec.loading import load_spec

HOOKED = '''
import os
import time
from pathlib import Path

from foundray.contract import Objective, Plan, Target, cross_entropy
from foundray_objectives.joint_embedding import JointEmbedding


def pause():
    if pace := os.environ.get("HOOKED_PACE"):
        time.sleep(float(Path(pace).read_text()))


class Hooked(Objective):
    nan_token: int | None = None
    """Samples whose first predicted token is this give a loss that is not a number."""
    spike_token: int | None = None
    """Samples whose first predicted token is this give a loss a hundred times too large."""

    def heads(self, shape):
        return {"lm_head": shape.classes}

    def plan(self, units, rng):
        return Plan(units[:-1], (Target("lm_head", units.x[1:]),))

    def loss(self, prediction, target, loss_mask):
        pause()
        loss, count = cross_entropy(prediction, target, loss_mask)
        if prediction.requires_grad:
            if self.nan_token is not None and (target[:, 0] == self.nan_token).any():
                loss = loss * float("nan")
            if self.spike_token is not None and (target[:, 0] == self.spike_token).any():
                loss = loss * 100
            if "HOOKED_FLIP" in os.environ:
                loss = loss * (1 + 2**-20)
        return loss, count


class HookedText(Hooked):
    continues = True


class HookedTeacher(JointEmbedding):
    def loss(self, prediction, target, loss_mask):
        pause()
        return super().loss(prediction, target, loss_mask)
'''


class Pace:
    """Minimum duration of a micro-batch on nodes with `environment`. It may change at any time, and does not affect weights."""

    def __init__(self, file: Path, seconds: float):
        self.file = file
        self.environment = {"HOOKED_PACE": str(file)}
        self.set(seconds)

    def set(self, seconds: float) -> None:
        aside = self.file.with_suffix(".new")
        aside.write_text(str(seconds))
        aside.replace(self.file)


def install(folder: Path) -> Path:
    """Install the package as pip would. Returns the folder that must be on PYTHONPATH."""
    site = folder / "site"
    information = site / "hooked-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "hooked.py").write_text(HOOKED)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: hooked\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[foundray.objectives]\n"
        "hooked = hooked:Hooked\nhooked_text = hooked:HookedText\nhooked_teacher = hooked:HookedTeacher\n"
    )
    return site


def rare_openers(spec: Path, steps: int) -> list[int]:
    """Two tokens, each the first target of some sample from the run's 20th step on, and of none before."""
    checked, prepared = load_spec(spec), api.prepare(spec)
    plan = plan_for(prepared, checked)
    samples = read_samples(plan, 0, steps * checked.train.micro_batches).column("tokens")
    openers = [tokens[1].as_py() for tokens in samples]
    early, late = openers[: 20 * checked.samples_per_step], openers[20 * checked.samples_per_step :]
    return sorted(set(late) - set(early))[:2]
