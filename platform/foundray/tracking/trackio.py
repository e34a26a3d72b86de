"""Trackio: local by default, or a Space of Hugging Face's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import PrivateAttr

from foundray.contract.tracking import Point, Position, RunInfo, Tracker

STEP, EVENTS = "foundray/step", "foundray/events"
"""How far the logs were sent with a row."""
STORED_SECONDS = 20.0
"""Limit for rows to reach Trackio's database: its own thread writes them, and only warns if it cannot."""


class Trackio(Tracker):
    package: ClassVar[str] = "trackio"

    project: str = "foundray"
    """Name of the project."""
    space: str | None = None
    """A Space of Hugging Face's, as `user/name` (default: this machine, in the folder that `TRACKIO_DIR` says)."""
    _run: Any = PrivateAttr(None)
    _rows: int = PrivateAttr(0)

    def begin(self, run: RunInfo) -> Position | None:
        import trackio

        self._run = trackio.init(
            project=self.project,
            name=f"{run.name}-{run.id}",
            space_id=self.space,
            config=dict(run.spec),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        if self.space:
            return None
        rows = self._stored()
        self._rows = len(rows)
        return Position(*(max((int(row.get(name, 0)) for row in rows), default=0) for name in (STEP, EVENTS)))

    def _stored(self) -> list[dict[str, Any]]:
        from trackio.sqlite_storage import SQLiteStorage

        found: list[dict[str, Any]] = SQLiteStorage.get_logs(self.project, self._run.name)
        return found

    def send(self, points: Sequence[Point]) -> None:
        for point in points:
            note = {"note": point.note} if point.note else {}
            position = {STEP: point.position.step, EVENTS: point.position.events}
            self._run.log({**point.values, **note, **position}, step=point.step)
        self._rows += len(points)
        if not self.space:
            self._wait_until_stored()

    def _wait_until_stored(self) -> None:
        from trackio.sqlite_storage import SQLiteStorage

        until = time.monotonic() + STORED_SECONDS
        while (stored := SQLiteStorage.get_log_count(self.project, self._run.name)) < self._rows:
            if time.monotonic() > until:
                raise OSError(f"{self._rows - stored} rows did not reach {SQLiteStorage.get_project_db_path(self.project)}")
            time.sleep(0.05)

    def end(self, state: str) -> None:
        self._run.finish()

    def where(self) -> str:
        if self.space:
            return f"https://huggingface.co/spaces/{self.space}"
        return f"`trackio show --project {self.project}` shows it"
