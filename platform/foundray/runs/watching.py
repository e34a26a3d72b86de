"""`foundray watch`: a run on a terminal, live.

`watch` reads and displays; `View` is a pure function of its fields, independent of the records' source.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from foundray.host.signals import on_other_screen
from foundray.runs.following import Look, looks
from foundray.runs.goodput import ENDS
from foundray.runs.progress import Progress
from foundray.runs.run import Run
from foundray.runs.status import event_lines, faults, forecast, goodput, spent_on
from foundray.spec import Spec
from foundray.wording.plot import plot
from foundray.wording.sentences import by_source, by_task, perplexity, plain
from foundray.wording.words import duration

WIDE = 120
"""Fewest columns for plots and facts side by side."""
GAP = 3
PLOT_ROWS = (4, 12)
"""Fewest and most rows of a plot."""
EVENT_ROWS = 4
"""Fewest rows kept for events."""
WORKERS = 6
"""Most shares shown one by one."""
BEFORE = 5
"""Most earlier validation losses and numbers of workers shown."""
QUIET_SECONDS = 20.0
"""Silence longer than this is shown."""
COLOURS = {"training": "bold green", "finished": "bold green", "failed": "bold red", "interrupted": "bold red"}


def watch(run: Run, console: Console | None = None) -> None:
    """Show a run until it ends or Ctrl-C is pressed. Without a terminal, show one frame. Raises InputError."""
    console = console or Console()
    stated = run.forecast()
    screen = Screen(run.folder.url, run.spec(), stated, run.damage())
    if not console.is_terminal or console.is_dumb_terminal:
        screen.see(next(looks(run)))
        console.print(screen.view())
        return
    try:
        with on_other_screen(), Live(console=console, screen=True, auto_refresh=False) as live:
            for look in looks(run):
                screen.see(look)
                live.update(screen.view(), refresh=True)
    except KeyboardInterrupt:
        pass
    console.print(screen.view())  # the last frame stays on the terminal


class Screen:
    """What was read of a run so far."""

    def __init__(self, name: str, spec: Spec, stated: dict[str, Any] | None, damage: Sequence[str] = ()):
        self.name, self.spec, self.stated, self.damage = name, spec, stated, damage
        self.progress = Progress()
        self.look = Look([], True, False)
        self.heard = time.monotonic()
        """When the last record arrived."""

    def see(self, look: Look) -> None:
        if look.restarted:
            self.progress = Progress()
        if look.records:
            self.heard = time.monotonic()
        self.progress.add(look.records)
        self.look = look

    def view(self) -> View:
        quiet = time.monotonic() - self.heard
        damage = [*self.damage, *self.look.damage]
        return View(self.name, self.spec, self.stated, self.progress, self.look.alive, self.look.problem, quiet, damage)


@dataclass(frozen=True)
class View:
    """A run at one moment: one line per fact, fitted to the terminal's width and height."""

    name: str
    spec: Spec
    stated: dict[str, Any] | None
    """A forecast of its validation loss."""
    progress: Progress
    alive: bool
    """Whether a command runs it."""
    problem: str = ""
    """Why nothing new could be read; empty if it could."""
    quiet_s: float = 0.0
    """Seconds since the last record arrived, by this machine's clock alone."""
    damage: Sequence[str] = ()
    """Damage in its logs, one sentence per file."""

    @cached_property
    def _loss_unit(self) -> str:
        return self.spec.objective.build().loss_unit

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        width, height = options.max_width, options.height or console.height
        head, facts, foot = self._head(width), self._facts(), _line(self._foot(), "dim")
        free, half = height - len(head) - EVENT_ROWS - 1, (width - GAP) // 2
        rows = _clamped(free // 2 - 1 if width >= WIDE else free - len(facts) - 1)
        loss, recent = self._loss(half, rows, options.ascii_only), self._recent(half, rows, options.ascii_only)
        if width >= WIDE:
            body: RenderableType = _beside(half, Group(*loss, *recent), _table(facts))
            used = max(len(loss) + len(recent), len(facts))
        else:
            body = Group(_beside(half, Group(*loss), Group(*recent)), _table(facts))
            used = len(loss) + len(facts)
        yield from (*head, body)
        shown = max(EVENT_ROWS, height - len(head) - used - 1)
        yield from (_line(text) for text in event_lines(self.progress.events, self._loss_unit)[-shown:])
        yield foot

    def _state(self) -> str:
        doing = self.progress.doing
        if not doing:
            return "yet to start"
        return doing if self.alive or self.problem or doing in ENDS else "interrupted"

    def _head(self, width: int) -> list[RenderableType]:
        state, progress, steps = self._state(), self.progress, self.spec.train.steps
        folder, _, name = plain(self.name).rpartition("/")
        title = _line(name, "bold")
        title.append(f" in {folder}" if folder else "", "not bold dim")
        title.truncate(max(1, width - cell_len(state) - 1), overflow="ellipsis", pad=True)
        title.append(f" {state}", COLOURS.get(state, "bold yellow"))
        bar = Table.grid(padding=(0, 2), expand=True)
        for ratio in (None, 1, None):
            bar.add_column(ratio=ratio, no_wrap=True)
        share = progress.done / steps
        bar.add_row(f"step {progress.done:,} of {steps:,}", ProgressBar(total=steps, completed=progress.done), f"{share:.1%}")
        said = [f"{progress.done * self.spec.tokens_per_step:,} tokens"]
        if (speed := progress.tokens_per_s) is not None:
            said.append(f"{speed:,.0f} tokens/s")
        if (left := progress.seconds_left(steps)) is not None and state == "training":
            said.append(f"about {duration(round(left))} left")
        if self.alive and self.quiet_s > QUIET_SECONDS:
            said.append(f"nothing new for {duration(round(self.quiet_s))}")
        return [title, bar, _line(", ".join(said))]

    def _loss(self, width: int, rows: int, ascii_only: bool) -> list[Text]:
        losses = self.progress.losses[: self.progress.done]
        title = f"loss of all {len(losses):,} steps" if losses else "no step yet"
        return [_line(title, "dim"), *(_line(row, "cyan") for row in plot(losses, width, rows, ascii_only))]

    def _recent(self, width: int, rows: int, ascii_only: bool) -> list[Text]:
        losses = [step["loss"] for step in self.progress.recent]
        title = f"of the last {len(losses):,}" if losses else ""
        return [_line(title, "dim"), *(_line(row, "cyan") for row in plot(losses, width, rows, ascii_only))]

    def _facts(self) -> list[tuple[str, str]]:
        """(name, text) of each fact."""
        progress, last = self.progress, self.progress.step
        facts: list[tuple[str, str]] = []
        if self.problem:
            facts.append(("problem", plain(self.problem)))
        facts += [("problem", plain(said.removeprefix(f"{self.name}/"))) for said in self.damage]
        if last:
            recent = [step["loss"] for step in progress.recent]
            mean = f", of the last {len(recent)} steps {fmean(recent):.4f}" if recent else ""
            facts.append(("loss", f"{last['loss']:.4f}{mean} ({self._loss_unit})"))
        if found := next(reversed(progress.evaluated), None):
            bits = f", {found['bits_per_byte']:.4f} bits per byte" if "bits_per_byte" in found else ""
            before = [f"{one['val_loss']:.4f}" for one in progress.evaluated[-1 - BEFORE : -1]]
            earlier = f"; before {', '.join(before)}" if before else ""
            facts.append(("validation", f"{found['val_loss']:.4f}{perplexity(found)} at step {found['step']:,}{bits}{earlier}"))
            if sources := by_source(found):
                facts.append(("by source", sources.removeprefix("; ")))
            if tasks := by_task(found):
                facts.append(("tasks", tasks.removeprefix("; ")))
        if self.stated:
            came = found["val_loss"] if found and progress.doing == "finished" else None
            facts.append(("forecast", forecast(self.stated, came)))
        if last:
            facts.append(("rate", f"learning rate {last['lr']:.3g}, gradient norm {last['grad_norm']:.3g}"))
        if progress.worlds:
            facts.append(("workers", _worlds(progress.worlds)))
        if progress.shares:
            facts.append(("shares", _shares(progress.shares)))
        if progress.doing:
            facts.append(("time", goodput(progress)))
            parts = spent_on(progress.account.parts())
            facts.append(("", ", ".join(f"{part.replace('_', ' ')} {share:.0%}" for part, _, share in parts if share >= 0.005)))
        if kept := progress.checkpoint:
            facts.append(("checkpoint", f"step {kept['step']:,}{self._age(kept)}"))
        if progress.worlds:
            facts.append(("faults", faults(progress.restarts.count, progress.repeated)))
        return facts

    def _age(self, checkpoint: dict[str, Any]) -> str:
        if self._state() in (*ENDS, "interrupted"):
            return ""
        return f", {duration(round(self.progress.account.seen - checkpoint['time'] + self.quiet_s))} ago"

    def _foot(self) -> str:
        match self._state():
            case "yet to start":
                return "nothing is recorded yet: waiting"
            case "finished":
                return f"next: foundray status {plain(self.name)}"
            case "failed" | "stopped" | "interrupted":
                return f"next: foundray resume {plain(self.name)}"
            case _:
                return "Ctrl-C ends watching; the run continues"


def _worlds(worlds: list[tuple[int, int]]) -> str:
    """The number of workers over time."""
    (step, now), before = worlds[-1], worlds[-1 - BEFORE : -1]
    if not before:
        return f"{now}"
    return f"{now} since step {step:,}; before {', '.join(f'{workers} from {at:,}' for at, workers in reversed(before))}"


def _shares(shares: dict[int, float]) -> str:
    """Shares of the micro-batches by worker."""
    if len(shares) > WORKERS:
        return f"{min(shares.values()):.1%} to {max(shares.values()):.1%} of the micro-batches to each of {len(shares)} workers"
    return "worker " + ", ".join(f"{rank}: {share:.0%}" for rank, share in shares.items()) + " of the micro-batches"


def _clamped(rows: int) -> int:
    fewest, most = PLOT_ROWS
    return min(max(rows, fewest), most)


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _table(facts: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(style="bold", no_wrap=True, width=len("checkpoint"))
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for name, text in facts:
        table.add_row(name, _line(text, "red" if name == "problem" else ""))
    return table


def _beside(width: int, left: RenderableType, right: RenderableType) -> Table:
    """Two columns of this width each."""
    table = Table.grid(padding=0)
    table.add_column(width=width + GAP, no_wrap=True)
    table.add_column(width=width, no_wrap=True)
    table.add_row(left, right)
    return table
