"""A run's progress on a terminal: its activity and, once it steps, its loss, speed, workers and time left."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from foundray.wording.words import plural

DOING = {
    "workers_started": "first step",
    "group_broken": "regrouping",
    "rolled_back": "rolling back",
    "too_few": "waiting for workers",
    "waiting": "waiting for workers",
}
"""Activity after an event of this kind, until the next step."""
REFRESHES = 2
"""Per second: each takes a millisecond or two of processors that workers use."""


class Bar:
    def __init__(self, steps: int, console: Console | None = None):
        self.progress = Progress(
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[doing]}", markup=False),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            refresh_per_second=REFRESHES,
        )
        self.task = self.progress.add_task("train", total=steps, doing="starting workers")
        self.progress.start()

    def event(self, kind: str) -> None:
        if kind in DOING:
            self.progress.update(self.task, doing=DOING[kind], refresh=True)

    def step(self, record: dict[str, Any]) -> None:
        """Show a step's record."""
        loss, speed = f"loss {record['loss']:.4f}", f"{record['tokens_per_s']:,.0f} tokens/s"
        doing = f"{loss}  {speed}  {plural(record['workers'], 'worker')}"
        self.progress.update(self.task, completed=record["step"], doing=doing)

    def print(self, text: str) -> None:
        """Print a line above the bar."""
        self.progress.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        self.progress.stop()
