"""A search as a table: while it runs, and at its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from foundray.tuning.search.budget import FlopBudget
from foundray.tuning.search.search import Trial

LINE_SECONDS = 10.0
"""Seconds between status lines without a terminal."""
FRAMES = 4
"""Refreshes per second on a terminal."""


def ranked(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """Trials, best first: by rungs reached, then by lower score, then by fewer changes to the spec's values.

    Trials without a score come last, those that diverged latest first.
    """

    def order(trial: Trial) -> tuple[float, ...]:
        if trial.score(metric) < float("inf"):
            return -len(trial.results), trial.score(metric), trial.changed, trial.number
        return 1, -(trial.results[-1].tokens if trial.results else -1), trial.changed, trial.number

    return sorted(trials, key=order)


def rows(trials: Sequence[Trial], metric: str) -> list[list[str]]:
    """Table of a search: a header, then one row per trial."""
    names = list(trials[0].values) if trials else []
    head = ["trial", *(name.removeprefix("optimizer.") for name in names), "tokens", metric, "state"]
    body = []
    for trial in trials:
        last = trial.results[-1] if trial.results else None
        result = "-" if last is None else "diverged" if last.diverged else f"{getattr(last, metric):.4f}"
        values = [short(trial.values[name]) for name in names]
        body.append([str(trial.number), *values, f"{last.tokens:,}" if last else "-", result, trial.standing])
    return [head, *body]


def _line(trial: Trial, metric: str) -> str:
    values = ", ".join(f"{name.removeprefix('optimizer.')} {short(value)}" for name, value in trial.values.items())
    last = trial.results[-1] if trial.results else None
    if last is None:
        result = "no result yet"
    elif last.diverged:
        result = f"no {metric} after {last.tokens:,} tokens"
    else:
        result = f"{metric} {getattr(last, metric):.4f} after {last.tokens:,} tokens"
    return f"trial {trial.number} ({values}): {result}, {trial.standing}"


def short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def aligned(table: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table)


class Live:
    """Progress of a search: a live table on a terminal; otherwise one line per ended trial and a periodic status line."""

    def __init__(self, metric: str, budget: FlopBudget, report: Callable[[str], None], on_terminal: bool):
        self.metric, self.budget, self.report = metric, budget, report
        self.shown, self.reported = time.monotonic(), set[int]()
        self.screen: Any = None
        if on_terminal and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live as Screen
            from rich.text import Text

            self.text = Text  # rich would parse a string as markup
            self.screen = Screen(console=Console(stderr=True), refresh_per_second=FRAMES, transient=True)
            self.screen.start()

    def __call__(self, trials: Sequence[Trial]) -> None:
        if self.screen:
            if time.monotonic() - self.shown > 1 / FRAMES:
                self.shown = time.monotonic()
                table = aligned(rows(ranked(trials, self.metric), self.metric))
                self.screen.update(self.text(f"{table}\n{self._standing(trials)}", no_wrap=True, overflow="ellipsis"))
            return
        for trial in trials:
            if trial.state != "runs" and trial.number not in self.reported:
                self.reported.add(trial.number)
                self.report(_line(trial, self.metric))
                self.shown = time.monotonic()
        if time.monotonic() - self.shown > LINE_SECONDS:
            self.shown = time.monotonic()
            self.report(self._standing(trials))

    def _standing(self, trials: Sequence[Trial]) -> str:
        running = sum(trial.state == "runs" for trial in trials)
        used = self.budget.used / self.budget.allowed
        return f"{len(trials)} trials, {running} running; {used:.0%} of the search's budget used"

    def close(self) -> None:
        if self.screen:
            self.screen.stop()
