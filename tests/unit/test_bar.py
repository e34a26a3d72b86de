"""A run's progress on a terminal."""

from __future__ import annotations

import io
import re

from rich.console import Console

from foundray.training.bar import Bar


def test_what_a_run_does_until_it_steps() -> None:
    text = io.StringIO()
    bar = Bar(1000, (2, 2), Console(file=text, force_terminal=True, width=120, height=24))

    def seen() -> str:
        """What was drawn since the last look."""
        bar.progress.refresh()
        drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())
        text.seek(0)
        text.truncate()
        return drawn

    record = {"step": 3, "loss": 5.5438, "tokens_per_s": 1266.4, "workers": 2}
    assert "0/1000" in (first := seen()) and "starting 2 workers" in first
    assert "nan" not in first and "tokens/s" not in first
    bar.event("member_ready")
    assert "starting 2 workers" in seen()
    bar.event("workers_started")
    assert "first step" in seen()
    bar.step(record)
    assert "3/1000" in (third := seen()) and "loss 5.5438  1,266 tokens/s  2 workers" in third
    bar.event("group_broken")
    assert "regrouping" in (broken := seen()) and "loss" not in broken
    bar.step(record | {"step": 4, "workers": 1})
    assert "1 worker " in seen()
    bar.print("[red]what was said[/]")
    assert "[red]what was said[/]" in seen(), "a line is not markup"
    bar.close()
