"""A search as a table: while it runs, and at its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from foundray.tuning.search.budget import Purse
from foundray.tuning.search.search import Trial

LINE_SECONDS = 10.0
"""Between lines where there is no terminal."""
FRAMES = 4
"""Tables a second on a terminal."""


def ranked(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """The best first: the trial that came further, then the one with the lower score, then the one nearer to the spec's values.

    Trials without a score come last: first those that diverged late.
    """

    def order(trial: Trial) -> tuple[float, ...]:
        if trial.score(metric) < float("inf"):
            return -len(trial.found), trial.score(metric), trial.changed, trial.number
        return 1, -(trial.found[-1].tokens if trial.found else -1), trial.changed, trial.number

    return sorted(trials, key=order)


def rows(trials: Sequence[Trial], metric: str) -> list[list[str]]:
    """A head, and a row a trial."""
    names = list(trials[0].values) if trials else []
    head = ["trial", *(name.removeprefix("optimizer.") for name in names), "tokens", metric, "state"]
    body = []
    for trial in trials:
        last = trial.found[-1] if trial.found else None
        told = "-" if last is None else "diverged" if last.diverged else f"{getattr(last, metric):.4f}"
        values = [short(trial.values[name]) for name in names]
        body.append([str(trial.number), *values, f"{last.tokens:,}" if last else "-", told, trial.standing])
    return [head, *body]


def _line(trial: Trial, metric: str) -> str:
    values = ", ".join(f"{name.removeprefix('optimizer.')} {short(value)}" for name, value in trial.values.items())
    last = trial.found[-1] if trial.found else None
    if last is None:
        found = "nothing found"
    elif last.diverged:
        found = f"no {metric} after {last.tokens:,} tokens"
    else:
        found = f"{metric} {getattr(last, metric):.4f} after {last.tokens:,} tokens"
    return f"trial {trial.number} ({values}): {found}, {trial.standing}"


def short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def aligned(table: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table)


class Live:
    """Shows a search as it goes: a table that changes, on a terminal; else a line a trial, and now and then where it stands."""

    def __init__(self, metric: str, purse: Purse, report: Callable[[str], None], on_terminal: bool):
        self.metric, self.purse, self.report = metric, purse, report
        self.shown, self.ended = time.monotonic(), set[int]()
        self.screen: Any = None
        if on_terminal and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live as Screen
            from rich.text import Text

            self.text = Text  # a string would be taken for markup
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
            if trial.state != "runs" and trial.number not in self.ended:
                self.ended.add(trial.number)
                self.report(_line(trial, self.metric))
                self.shown = time.monotonic()
        if time.monotonic() - self.shown > LINE_SECONDS:
            self.shown = time.monotonic()
            self.report(self._standing(trials))

    def _standing(self, trials: Sequence[Trial]) -> str:
        running = sum(trial.state == "runs" for trial in trials)
        used = self.purse.spent / self.purse.allowed
        return f"{len(trials)} trials, of which {running} run; {used:.0%} of the search's budget used"

    def close(self) -> None:
        if self.screen:
            self.screen.stop()
