"""A run's progress on a terminal: its activity and, once it steps, its loss, speed, workers and time left."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from foundray.wording.words import duration, plural

STARTING = "starting workers"
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
    def __init__(self, steps: int, workers: int, console: Console | None = None):
        """`workers`: the most that the run uses."""
        self.progress = Progress(
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[doing]}", markup=False),
            Time(),
            console=console or Console(stderr=True),
            refresh_per_second=REFRESHES,
        )
        self.workers = workers
        self.ready: set[int] | None = set()
        """Numbers of the workers that are ready to form the first group; None once that is being formed."""
        self.task = self.progress.add_task("train", total=steps, doing=STARTING)
        self.progress.start()

    def event(self, record: dict[str, Any]) -> None:
        """Show what an event makes of the activity."""
        kind = record["event"]
        if kind in DOING:
            self.show(DOING[kind])
        elif self.ready is not None and kind in ("member_ready", "member_lost"):
            change = self.ready.add if kind == "member_ready" else self.ready.discard
            change(record["member"])
            self.show(f"{STARTING}: {len(self.ready):,} of {self.workers:,} ready")

    def forming(self, text: str) -> None:
        """Show that a group is being formed, as `text` says."""
        self.ready = None
        self.show(text)

    def show(self, doing: str) -> None:
        self.progress.update(self.task, doing=doing, refresh=True)

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


class Time(TimeRemainingColumn):
    """The time left; before the first step, the time that the command has waited for it."""

    def render(self, task: Task) -> Text:
        if task.completed:
            return super().render(task)
        return Text(duration(int(task.elapsed or 0)), style="progress.elapsed")
