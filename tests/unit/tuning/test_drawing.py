"""Progress on a terminal: of a run, and of a search."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
from ray import cloudpickle
from rich.console import Console

from foundray.storage import Store
from foundray.testing.records import untimed_event
from foundray.testing.specs import make_spec
from foundray.training.telemetry.bar import Bar
from foundray.tuning.search.budget import FlopBudget
from foundray.tuning.search.search import Budgeted, Proposer, Search, _Watcher
from foundray.tuning.search.table import Live


def test_a_runs_progress_before_and_between_steps() -> None:
    text = io.StringIO()
    bar = Bar(1000, 2, Console(file=text, force_terminal=True, width=120, height=24))

    def seen() -> str:
        """Text drawn since the last call."""
        bar.progress.refresh()
        drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())
        text.seek(0)
        text.truncate()
        return drawn

    record = {"step": 3, "loss": 5.5438, "tokens_per_s": 1266.4, "workers": 2}
    assert "0/1000" in (first := seen()) and "starting workers" in first
    assert "nan" not in first and "tokens/s" not in first
    ready = untimed_event("member_ready", member=1)
    bar.event(ready)
    bar.event(ready)
    assert "starting workers: 1 of 2 ready" in seen()
    bar.event(untimed_event("member_lost", member=1))
    assert "0 of 2 ready" in seen()
    bar.forming("forming a group of 2 workers")
    bar.event(ready)
    assert "forming a group" in (forming := seen()) and re.search(r"\d+ s\b", forming), "and how long one has waited"
    bar.event(untimed_event("workers_started", step=0))
    assert "first step" in seen()
    bar.step(record)
    bar.event(ready | {"member": 3})
    assert "3/1000" in (third := seen()) and "loss 5.5438  1,266 tokens/s  2 workers" in third
    bar.event(untimed_event("group_broken", step=3))
    assert "regrouping" in (broken := seen()) and "loss" not in broken
    bar.step(record | {"step": 4, "workers": 1})
    assert "1 worker " in seen()
    bar.print("[red]a message[/]")
    assert "[red]a message[/]" in seen(), "a line is not markup"
    bar.close()


def test_a_search_on_a_terminal_goes_through_ray_tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Tune pickles all its arguments, and a live screen holds locks."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    budget = FlopBudget(1.0)
    live = Live("val_loss", budget, print, on_terminal=True)
    try:
        assert live.screen is not None
        with pytest.raises(TypeError, match="pickle"):
            cloudpickle.dumps(live)
        search = Search(make_spec(), Store.at(tmp_path), budget, lambda number: None, print, live)
        scheduler = Budgeted(search, time_attr="rung", grace_period=1, reduction_factor=3, max_t=9)
        for argument in (Proposer(search), scheduler, _Watcher(search)):
            cloudpickle.dumps(argument)
    finally:
        live.close()
