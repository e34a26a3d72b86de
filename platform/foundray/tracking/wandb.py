"""Weights & Biases: online, or offline files that `wandb sync` sends later."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import PrivateAttr

from foundray.contract.tracking import Point, Position, RunInfo, Tracker
from foundray.storage import Store
from foundray.tracking.wandb_files import history

STEP, EVENTS = "foundray/step", "foundray/events"
"""How far the logs were sent with a row."""


class Wandb(Tracker):
    package: ClassVar[str] = "wandb"

    project: str = "foundray"
    """Name of the project."""
    entity: str | None = None
    """User or team (default: your own)."""
    mode: Literal["online", "offline"] | None = None
    """Whether to send at once, or to keep files in the run's folder for `wandb sync` (default: as `WANDB_MODE` says)."""
    _run: Any = PrivateAttr(None)

    def begin(self, run: RunInfo) -> Position | None:
        import wandb

        folder = Store.at(run.folder)
        place = Path(folder.path) if folder.is_local else Path.cwd()
        known = _in_files(place, run.id)
        if self._run is not None:
            self._run.finish()
        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            id=run.id,
            name=run.name,
            mode=self.mode,
            dir=place,
            resume=None if self._is_offline() else "allow",
            config=dict(run.spec),
            settings=wandb.Settings(
                console="off", silent=True, x_disable_stats=True, disable_git=True, save_code=False, disable_code=True
            ),
        )
        self._run.define_metric("*", step_metric="step")
        self._run.define_metric("foundray/*", hidden=True)
        if self._run.offline:
            return known
        found = Position(*(int(self._run.summary.get(name, 0)) for name in (STEP, EVENTS)))
        return found if self._run.resumed else Position()

    def _is_offline(self) -> bool:
        return (self.mode or os.environ.get("WANDB_MODE")) == "offline"

    def send(self, points: Sequence[Point]) -> None:
        for point in points:
            note = {"note": point.note} if point.note else {}
            reached = point.position
            row = {"step": point.step, **point.values, **note, STEP: reached.step, EVENTS: reached.events}
            # W&B takes rows in the order of numbers that only grow; an evaluation may come after the next step.
            self._run.log({**row, "_timestamp": point.time}, step=reached.step + reached.events)

    def end(self, state: str) -> None:
        self._run.finish(exit_code=1 if state == "failed" else 0)

    def where(self) -> str:
        return f"offline, `wandb sync {self._run.settings.sync_dir}` sends it" if self._run.offline else str(self._run.url)


def _in_files(folder: Path, run: str) -> Position:
    """How far the offline files of earlier commands hold the logs."""
    rows = [row for file in sorted(folder.glob(f"wandb/offline-run-*-{run}/run-{run}.wandb")) for row in history(file)]
    return Position(*(max((int(row.get(name, 0)) for row in rows), default=0) for name in (STEP, EVENTS)))
