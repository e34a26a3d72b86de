"""TensorBoard in a real browser: the layout that a run leaves is shown, with what belongs together in one picture."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.browser import ARTEFACTS, chromium

from foundray.cluster.local.node import free_ports
from foundray.runs.run import Run, event
from foundray.storage import Store
from foundray.testing.waiting import wait_until
from foundray.training.telemetry.curves import LAYOUT, Curves

NUMBERS = {"lr": 0.1, "grad_norm": 1.0, "tokens_per_s": 640.0, "data_wait_s": 0.1, "copy_s": 0.05, "step_s": 0.5}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs' folders. In one a group breaks at step 20."""
    folder = tmp_path_factory.mktemp("runs")
    for name, breaks in (("calm", None), ("disturbed", 20)):
        (folder / name).mkdir()
        curves = Curves(Run(Store.at(folder / name)), [])
        curves.add_event(event("workers_started", step=0, workers=2))
        for step in range(1, 41):
            curves.add_step({"step": step, "loss": 3 / step, "workers": 1 if breaks and step > breaks else 2, **NUMBERS})
            if step == breaks:
                curves.add_event(event("group_broken", step=step, reason="a worker was lost"))
                curves.add_event(event("workers_started", step=step, workers=1))
            if step % 10 == 0:
                curves.add_event(event("evaluated", step=step, val_loss=3.5 / step))
                curves.add_event(event("checkpoint", step=step, bytes=1000, seconds=0.1))
        curves.close()
    return folder


@pytest.fixture(scope="module")
def tensorboard(runs: Path) -> Iterator[str]:
    (port,) = free_ports("127.0.0.1", 1)
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={runs}", "--host=127.0.0.1", f"--port={port}"]
    process = subprocess.Popen([*command, "--load_fast=false"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"

    def serves() -> bool:
        listed = b"custom_scalars" in _answer(f"{address}/data/plugins_listing")
        return listed and bool(_answer(f"{address}/data/runs").strip(b"[]\n"))

    wait_until(serves, 200, "TensorBoard with its runs", process, pause=0.2)
    yield address
    process.terminate()
    process.wait(10)


def _answer(url: str) -> bytes:
    with suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())
    return b""


@pytest.fixture
def page() -> Iterator[Any]:
    """A browser's page; `page.errors` has the errors of its console."""
    with chromium() as browser:
        made = browser.new_page(viewport={"width": 1400, "height": 1400})
        made.errors = []
        made.on("console", lambda message: made.errors.append(message.text) if message.type == "error" else None)
        made.on("pageerror", lambda error: made.errors.append(str(error)))
        yield made


def test_the_layout_is_shown_with_its_runs_and_curves(tensorboard: str, page: Any, tmp_path: Path) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{tensorboard}/#custom_scalars", wait_until="domcontentloaded")
    cards = page.locator("tf-custom-scalar-multi-line-chart-card")
    cards.nth(len(LAYOUT["Run"]) - 1).wait_for(timeout=60_000)
    for title in LAYOUT["Run"]:
        page.get_by_text(title, exact=True).first.wait_for(timeout=10_000)
    for run in ("calm", "disturbed"):
        page.get_by_text(f"{run}/tensorboard", exact=True).first.wait_for(timeout=10_000)
    for card, curves in enumerate((4, 6, 2, 2, 5)):  # of both runs; only one had a fault
        cards.nth(card).get_by_text(f"Matches ({curves})").wait_for(timeout=30_000)
    for tag in LAYOUT["Run"]["Loss: training and validation"]:
        cards.first.get_by_text(tag).first.wait_for(state="attached", timeout=10_000)  # in a list that can be unfolded
    folder = Path(os.environ.get(ARTEFACTS) or tmp_path)
    page.screenshot(path=str(folder / "tensorboard-custom-scalars.png"))
    assert not page.errors
    assert all(url.startswith((tensorboard, "data:", "blob:")) for url in asked), "nothing is fetched from elsewhere"


def test_events_are_marks_at_their_steps(runs: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(runs / "disturbed" / "tensorboard"))
    found.Reload()
    jumps = {tag: [(s.step, s.value) for s in found.Scalars(f"events/{tag}")] for tag in ("faults", "groups", "checkpoints")}
    assert jumps["faults"] == [(20, 0), (20, 1)]
    assert jumps["groups"] == [(0, 0), (0, 1), (20, 1), (20, 2)]
    assert [step for step, _ in jumps["checkpoints"]][::2] == [10, 20, 30, 40]
    (recorded,) = found.Tensors("events/faults/text_summary")
    assert "group_broken" in str(recorded.tensor_proto.string_val[0]) and "a worker was lost" in str(
        recorded.tensor_proto.string_val[0]
    )
    assert recorded.step == 20


def test_marks_of_a_second_command_continue_the_count(runs: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = Curves(Run(Store.at(tmp_path)), [event("checkpoint", step=10), event("checkpoint", step=20)])
    curves.add_event(event("checkpoint", step=30, bytes=1, seconds=1.0))
    curves.close()
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(s.step, s.value) for s in found.Scalars("events/checkpoints")] == [(30, 2), (30, 3)]


def test_steps_that_are_done_again_are_read_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = {"workers": 2, **NUMBERS}
    recorded = [event("workers_started", step=0, workers=2), event("checkpoint", step=20, bytes=1, seconds=1.0)]
    killed = Curves(Run(Store.at(tmp_path)), [])
    for happened in recorded[:1]:
        killed.add_event(happened)
    for step in range(1, 36):
        killed.add_step({"step": step, "loss": 3 / step, **record})
        if step == 20:
            killed.add_event(recorded[1])
    recorded.append(event("group_broken", step=35, reason="a worker was lost"))
    killed.add_event(recorded[-1])
    killed.close()
    resumed = Curves(Run(Store.at(tmp_path)), recorded)
    resumed.add_event(event("workers_started", step=20, workers=1))
    for step in range(21, 41):
        resumed.add_step({"step": step, "loss": 2 / step, **record})
    resumed.close()
    found = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0})
    found.Reload()
    losses = [(scalar.step, round(scalar.value, 4)) for scalar in found.Scalars("train/loss")]
    assert losses == [(step, round((3 if step <= 20 else 2) / step, 4)) for step in range(1, 41)]
    jumps = {tag: [(s.step, s.value) for s in found.Scalars(f"events/{tag}")] for tag in ("faults", "groups", "checkpoints")}
    assert jumps["faults"] == [(35, 0), (35, 1)], "events there are counted again"
    assert jumps["checkpoints"] == [(20, 0), (20, 1)]
    assert jumps["groups"] == [(0, 0), (0, 1), (20, 1), (20, 2)]
