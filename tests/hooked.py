"""An objective from a package of its own, as a third party would add one, that misbehaves where a test wants it to.

It is `next_token`, but its loss takes longer or is wrong on nodes whose environment says so, or for chosen samples.
"""

from __future__ import annotations

from pathlib import Path

HOOKED = '''
import os
import time

import torch
from foundray.contract import Ask, Objective, Plan
from torch.nn import functional as F


class Hooked(Objective):
    nan_token: int | None = None
    """Samples that open with this token give a loss that is not a number."""
    spike_token: int | None = None
    """Samples that open with this token give a loss a hundred times too large."""

    def heads(self, vocabulary):
        return {"lm_head": vocabulary}

    def plan(self, units, generator):
        following = units.between(1, None)
        self.__dict__["opens"] = units.x[:, 0]
        return Plan(units.between(None, -1), (Ask("lm_head", following.x, following.valid),), causal=True)

    def loss(self, prediction, ask):
        time.sleep(float(os.environ.get("HOOKED_SLEEP", 0)))
        target = ask.target.masked_fill(~ask.weight, -100)
        loss = F.cross_entropy(prediction.flatten(0, 1).float(), target.flatten(), ignore_index=-100, reduction="sum")
        if torch.is_grad_enabled():
            if (self.opens == (-1 if self.nan_token is None else self.nan_token)).any():
                loss = loss * float("nan")
            if (self.opens == (-1 if self.spike_token is None else self.spike_token)).any():
                loss = loss * 100
            if "HOOKED_FLIP" in os.environ:
                loss = loss * (1 + 2**-20)
        return loss, ask.weight.sum()
'''


def install(folder: Path) -> Path:
    """Put the package there as pip would; gives what must be on PYTHONPATH."""
    site = folder / "site"
    information = site / "hooked-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "hooked.py").write_text(HOOKED)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: hooked\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[foundray.objectives]\nhooked = hooked:Hooked\n")
    return site
