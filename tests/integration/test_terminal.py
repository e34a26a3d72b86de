"""Every verb that draws, on a real terminal: resized, interrupted once and twice, the terminal closed, the reader gone.

test_submit.py, which has a cluster, tests `submit --follow`.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.command import FOUNDRAY
from tests.hooked import Pace
from tests.integration.actors import check_only_what_is_needed
from tests.terminal import SECONDS, Terminal

import foundray as api
from foundray.host.signals import AGAIN_SECONDS
from foundray.testing.runs import run_with_checkpoint
from foundray.testing.specs import small_spec, write_spec
from foundray.testing.waiting import wait_until

SOON = 60
"""Limit on a command's end after a second signal, in seconds, on a busy machine. Its own limit is ten."""
ASKED = "ending after the current step, with a checkpoint; press again to end at once"
UNREAD = "standard output cannot be written (Broken pipe); continuing without it"
PACE = 0.05
"""Seconds per micro-batch that leave the processor to the viewers."""
PARTS = 40
"""Sources of a preparation, of 400 kB each."""
ENDLESS = {"train__steps": 10**6, "train__checkpoint_every": 10**6, "train__evaluate_every": 10**6}


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


def fine(terminal: Terminal) -> bool:
    """Whether the terminal was restored."""
    assert "Traceback" not in terminal.text and "Exception ignored" not in terminal.text, terminal.text[-3000:]
    return terminal.shows_cursor


def piped(command: str, *arguments: object) -> tuple[object, ...]:
    """Command line for bash: $0 is foundray, and the exit status is that of the first part to fail."""
    return "bash", "-o", "pipefail", "-c", command, FOUNDRAY, *arguments


def interrupt_twice(terminal: Terminal) -> None:
    """The second signal ends the command at once, unless the first already has. No process of Ray's is left."""
    started = psutil.Process(terminal.process.pid).children(recursive=True)
    terminal.interrupt()
    time.sleep(2 * AGAIN_SECONDS)
    terminal.interrupt()
    assert terminal.process.wait(SOON) == 130
    assert (terminal.end(), fine(terminal)) == (130, True)
    assert re.search("ended at once|interrupted; the same", " ".join(terminal.text.split()))
    assert not psutil.wait_procs(started, SECONDS)[1]


def begun_by(terminal: Terminal, folder: Path, pattern: str) -> dict[Path, int]:
    """Wait for the first new files that a command completes in a folder. Returns them with their times."""
    before = set(folder.glob(pattern))
    what = f"a new {pattern} in {folder}"
    wait_until(lambda: set(folder.glob(pattern)) > before, 200, lambda: f"{what}: {terminal.text}", terminal.process)
    return {file: file.stat().st_mtime_ns for file in folder.glob(pattern)}


@pytest.mark.thorough
def test_preparing(prose: Path, storage: Path, terminals: list[Terminal]) -> None:
    sources = [{"path": str(storage / f"{number}.txt")} for number in range(PARTS)]
    for source in sources:
        shutil.copy(prose, source["path"])
    spec = write_spec(storage, small_spec(prose, storage / "runs", name="read", data__sources=sources))
    finished = "prepared/*/units/*.json"

    terminals.append(closed := Terminal(FOUNDRAY, "prepare", spec))
    closed.until("starting Ray")
    closed.resize(30, 8)
    kept = begun_by(closed, storage / "runs", finished)
    closed.hang_up()
    assert closed.process.wait(SOON) == 129

    terminals.append(once := Terminal(FOUNDRAY, "prepare", spec))
    once.until("starting Ray")
    once.interrupt()
    assert (once.end(), fine(once)) == (130, True)
    assert "interrupted; the same `foundray prepare` continues" in " ".join(once.text.split())

    terminals.append(unread := Terminal(*piped('"$0" prepare "$1" | head -n 1', spec)))
    kept = begun_by(unread, storage / "runs", finished) | kept
    interrupt_twice(unread)
    assert UNREAD in " ".join(unread.text.split())

    assert len(list((storage / "runs").glob(finished))) < PARTS, "some are left"
    terminals.append(last := Terminal(FOUNDRAY, "prepare", spec))
    assert (last.end(), fine(last)) == (0, True)
    assert "resuming the preparation" in " ".join(last.text.split())
    assert kept == {file: file.stat().st_mtime_ns for file in kept}, "what was done is not done again"


def test_a_run_and_its_viewer(prose: Path, storage: Path, terminals: list[Terminal], pace: Pace) -> None:
    """The run starts no unneeded process. Its steps are slow, since their number does not matter."""
    pace.set(PACE)
    spec = write_spec(storage, small_spec(prose, storage / "runs", objective={"kind": "hooked"}, **ENDLESS))
    run = storage / "runs" / "small"

    terminals.append(training := Terminal(FOUNDRAY, "train", spec))
    training.until("starting 1 worker")
    training.until(r"loss \d")
    check_only_what_is_needed(training.process.pid, training.process)
    watching, left, gone = (Terminal(FOUNDRAY, "watch", run) for _ in range(3))
    read = Terminal(*piped('"$0" logs "$1" --follow | head -n 1', run))
    terminals += [watching, left, gone, read]
    for columns, rows in ((30, 8), (200, 50), (80, 24)):
        for terminal in (training, watching):
            terminal.resize(columns, rows)
        time.sleep(1)
    assert read.end() == 1, "whose reader has gone"
    assert fine(read) and len(read.text.splitlines()) == 1
    for terminal in (left, gone):
        terminal.until(r"step [1-9]")
    left.interrupt()
    assert (left.end(), fine(left), left.is_clean) == (0, True, True)
    gone.hang_up()
    assert gone.process.wait(SOON) == 129

    training.interrupt()
    assert (training.end(), fine(training)) == (130, True)
    watching.until("stopped at step")
    assert (watching.end(), fine(watching)) == (0, True)
    assert f"Ctrl-C: {ASKED}" in " ".join(training.text.split())
    assert not re.search(r"nan|\b0 tokens/s", training.text)
    assert re.search(rf"next: foundray resume .*{run.name}", " ".join(training.text.split()))
    facts = api.status(run)
    assert (facts.state, facts.stopped_by, facts.checkpoint) == ("stopped", "SIGINT", facts.step)


@pytest.mark.thorough
def test_a_run_whose_terminal_is_closed_and_one_that_nobody_reads(
    prose: Path, storage: Path, terminals: list[Terminal], pace: Pace
) -> None:
    pace.set(PACE)
    spec = write_spec(storage, small_spec(prose, storage / "runs", name="alone", objective={"kind": "hooked"}, **ENDLESS))
    run = storage / "runs" / "alone"
    terminals.append(closed := Terminal(FOUNDRAY, "train", spec))
    closed.until(r"loss \d")
    closed.hang_up()
    assert closed.process.wait(SOON) == 129
    first = api.status(run)
    assert (first.state, first.stopped_by, first.checkpoint) == ("stopped", "SIGHUP", first.step)
    assert first.step > 0

    terminals.append(unread := Terminal(*piped('"$0" resume "$1" | head -n 1', run)))
    wait_until(lambda: api.status(run).step > first.step, 300, lambda: f"a step: {unread.text}", unread.process, pause=0.5)
    parts = psutil.Process(unread.process.pid).children()
    next(one for one in parts if "resume" in one.cmdline()).terminate()
    assert (unread.end(), fine(unread)) == (143, True)
    assert UNREAD in " ".join(unread.text.split())
    last = api.status(run)
    assert (last.state, last.stopped_by, last.checkpoint, last.steps_repeated) == ("stopped", "SIGTERM", last.step, 0)


@pytest.mark.thorough
def test_pressed_again_before_the_step_is_done(prose: Path, storage: Path, terminals: list[Terminal]) -> None:
    """A step that takes minutes is not waited for."""
    spec = write_spec(storage, small_spec(prose, storage / "runs", name="slow", train__micro_batches=5000))
    terminals.append(training := Terminal(FOUNDRAY, "train", spec))
    training.until("first step")
    time.sleep(1)
    training.interrupt()
    training.until("Ctrl-C: ending")  # the rest of the sentence may be on the next line
    time.sleep(1)
    training.interrupt()
    assert training.process.wait(SOON) == 130
    assert (training.end(), fine(training)) == (130, True)
    assert "the same `foundray train` continues" in " ".join(training.text.split())
    facts = api.status(storage / "runs" / "slow")
    assert (facts.state, facts.step) == ("interrupted", 0)


@pytest.mark.thorough
def test_a_search(prose: Path, storage: Path, terminals: list[Terminal]) -> None:
    tune: dict[str, Any] = {
        "trials": 3,
        "budget": 4.0,
        "ladder": 0.0,
        "sampler": "random",
        "judged_tokens": 1024,
        "proxy": {"steps": 54},
    }
    tune |= {"space": {"optimizer.lr": {"log_uniform": [1e-3, 0.1]}}}
    fields = {"model__width": 64, "model__heads": 4, "train__steps": 60, "tune": tune}
    spec = write_spec(storage, small_spec(prose, storage / "runs", name="searched", **fields))
    terminals.append(searching := Terminal(FOUNDRAY, "tune", spec))
    searching.until(r"\d trials?, \d running")
    searching.resize(40, 10)
    time.sleep(1)
    searching.resize(120, 40)
    searching.interrupt()
    assert searching.process.wait(SOON) == 130
    assert (searching.end(), fine(searching)) == (130, True)
    assert "the same `foundray tune` continues" in " ".join(searching.text.split())

    terminals.append(closed := Terminal(FOUNDRAY, "tune", spec))
    closed.until(r"\d trials?, \d running")
    closed.hang_up()
    assert closed.process.wait(SOON) == 129

    terminals.append(twice := Terminal(FOUNDRAY, "tune", spec))
    twice.until(r"\d trials?, \d running")
    interrupt_twice(twice)

    terminals.append(unread := Terminal(*piped('"$0" tune "$1" | head -n 1', spec)))
    assert (unread.end(), fine(unread)) == (0, True)
    assert UNREAD in " ".join(unread.text.split())
    assert "best of 3 trials" in (storage / "runs" / "searched-tune" / "tuned.yaml").read_text()


@pytest.mark.thorough
def test_embedding(tmp_path: Path, terminals: list[Terminal]) -> None:
    run = run_with_checkpoint(tmp_path, model__context=64, model__depth=1)
    texts, out = tmp_path / "texts.txt", tmp_path / "out"
    texts.write_text("\n".join(f"{number} is a number, and so is {number + 1}" for number in range(30_000)))
    command = (FOUNDRAY, "embed", run.folder.url, texts, out, "--set", "documents=line")
    terminals.append(embedding := Terminal(*command))
    kept = begun_by(embedding, out, "shards/*.parquet")
    embedding.resize(30, 8)
    embedding.interrupt()
    assert embedding.process.wait(SOON) == 130
    assert (embedding.end(), fine(embedding)) == (130, True)
    assert "the same `foundray embed` continues" in " ".join(embedding.text.split())

    terminals.append(closed := Terminal(*command))
    kept = begun_by(closed, out, "shards/*.parquet") | kept
    closed.hang_up()
    assert closed.process.wait(SOON) == 129

    terminals.append(twice := Terminal(*command))
    kept = begun_by(twice, out, "shards/*.parquet") | kept
    interrupt_twice(twice)

    terminals.append(unread := Terminal(*piped('"$0" "${@:1}" | head -n 1', *command[1:])))
    assert (unread.end(), fine(unread)) == (0, True), "its reader is gone, and it continued"
    assert kept == {file: file.stat().st_mtime_ns for file in kept}, "what was done is not done again"
    assert api.search(out, "7 is a number, and so is 8", run=run.folder.url, top=1)[0].id.endswith("#7")
