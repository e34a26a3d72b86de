"""Runs that go through one schedule of faults after another, and what is compared after each.

A start takes most of a short run, and its faults a few seconds each. So a run continues after a schedule, with the state that
the faults have left: any trace of them would stay in all that follows.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.disk import Disk
from tests.chaos.faults import Faults
from tests.chaos.run import KEEP_EVERY, SLOW, STEPS, PacedRun
from tests.chaos.schedules import Moment
from tests.chaos.site import FEWEST, Site
from tests.command import foundray
from tests.hooked import Pace

from foundray.runs.checkpoints import completed, place, step_of
from foundray.storage import Store
from foundray.training.checkpoints.checkpoint import read_state, state_sha256

MARGIN = 100
"""A run with fewer steps left continues to its end: a schedule takes about 50 steps."""


@dataclass(frozen=True)
class Undisturbed:
    """What a run without faults has made."""

    weights_sha256: str
    """SHA-256 of the weights at its end."""
    states: Mapping[int, str]
    """SHA-256 of the whole state, with the teacher and the optimizer, by step."""


class Journey:
    def __init__(self, site: Site, spec: Path, undisturbed: Undisturbed, pace: Pace, disk: Disk | None, name: str):
        self.site, self.spec, self.undisturbed, self.pace, self.disk, self.name = site, spec, undisturbed, pace, disk, name
        self.run: PacedRun | None = None
        self.runs = 0

    def disturb(self, seed: int, plan: list[Moment]) -> None:
        """Inject a schedule's faults into the run under way, or into a new one, and compare its state afterwards."""
        began = time.monotonic()
        run = self.run = self._begun()
        faults = Faults(self.site, run, random.Random(seed), self.disk)
        try:
            for gap, kinds in plan:
                run.wait_for_step(run.step() + gap)
                faults.settle()
                for kind in kinds:
                    print(f"seed {seed}: {kind} at step {run.step()} of {run.name}", flush=True)
                    getattr(faults, kind)()
            run.wait_for_step(run.step() + 1)
            faults.settle()
            sha = self._compare(run)
        except BaseException:
            self._give_up(run, faults)
            raise
        print(f"seed {seed}: {sha}, as without faults; {time.monotonic() - began:.0f} s", flush=True)

    def _begun(self) -> PacedRun:
        """The run under way, or a new one, on enough nodes."""
        self.site.fill(FEWEST)
        if self.run is None:
            self.runs += 1
            return PacedRun(self.site.cluster, self.spec, f"{self.name}-{self.runs}", self.pace)
        return self.run

    def _compare(self, run: PacedRun) -> str:
        """Compare the next state that is kept, or the run's end, and return what is equal."""
        # A checkpoint of a later step may be there, damaged by a fault: those steps are being repeated.
        checkpoints = Store.at(str(run.folder / "checkpoints"))
        last = max([run.step(), *map(step_of, completed(checkpoints))])
        step = (last // KEEP_EVERY + 1) * KEEP_EVERY
        if step + MARGIN > STEPS:
            return self.finish()
        folder = place(checkpoints, step)
        run.wait_for(lambda: (folder / "manifest.json").exists(), f"checkpoint of step {step}")
        if run.process.poll() is not None:
            raise AssertionError(f"{run.name} has ended: {run.wait()}")
        sha = state_sha256(read_state(folder)[1])
        assert sha == self.undisturbed.states[step], f"{run.name} has another state at step {step}"
        return f"state {sha[:12]} at step {step}"

    def finish(self) -> str:
        """Let the run end, and look at its weights and at what it says of its samples."""
        run, self.run = self.run, None
        if run is None:
            return ""
        self.pace.set(0)
        facts = run.wait().facts
        self.pace.set(SLOW)
        assert facts["weights_sha256"] == self.undisturbed.weights_sha256, f"{run.name} ends with other weights"
        audit = foundray("audit", run.folder, "--json").facts
        assert audit["clean"], audit["problems"]
        shutil.rmtree(run.folder)  # the disk is small
        return f"weights {facts['weights_sha256'][:12]} at the end"

    def _give_up(self, run: PacedRun, faults: Faults) -> None:
        """End a run that has failed, and the cluster, so that the next schedule meets nothing of it. The run's folder stays."""
        for one in run.events()[-12:]:
            print(f"{one['time']:.3f} {one['event']} {one.get('step', '')} {one.get('reason', '')}"[:200], flush=True)
        self.run = None
        run.end()
        with contextlib.suppress(Exception):
            faults.settle()
        with contextlib.suppress(OSError):  # the disk may be the cause
            shutil.copytree(run.folder, self.pace.file.parent / run.name)
        self.site.replace()
