"""Real trackers in their local or offline modes: what they hold is the step log, each step once, also after kills and failures.

A tracker whose package is not installed is skipped.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.repository import REPOSITORY

import foundray
from foundray.cluster.local.node import free_ports
from foundray.errors import InputError
from foundray.runs.run import Run
from foundray.spec import Spec
from foundray.testing.records import event_at, step_records
from foundray.testing.runs import run_with_records
from foundray.testing.specs import make_spec
from foundray.testing.waiting import wait_until
from foundray.tracking.process import Tracking

Rows = list[tuple[int, float]]
"""(step, value) as a tracker holds them."""


def of_mlflow(folder: Path, name: str) -> Rows:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("foundray")
    (run,) = client.search_runs([experiment.experiment_id])
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name))


def of_wandb(folder: Path, name: str) -> Rows:
    from foundray.tracking.wandb_files import history

    files = sorted(folder.glob("runs/small/wandb/offline-run-*/*.wandb"))
    assert len({file.name for file in files}) == 1, "one run there"
    rows = [row for file in files for row in history(file)]
    assert [row["_step"] for row in rows] == sorted({row["_step"] for row in rows}), "W&B takes them in this order"
    return [(row["step"], row[name]) for row in rows if name in row]


def of_trackio(folder: Path, name: str) -> Rows:
    import sqlite3

    (place,) = (folder / "trackio").glob("*.db")
    with sqlite3.connect(place) as connection:
        rows = connection.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
        assert len(connection.execute("SELECT DISTINCT run_name FROM metrics").fetchall()) == 1, "one run there"
    return [(step, json.loads(metrics)[name]) for step, metrics in rows if name in json.loads(metrics)]


READ: dict[str, Callable[[Path, str], Rows]] = {"mlflow": of_mlflow, "wandb": of_wandb, "trackio": of_trackio}


def spec_of(run: Run, folder: Path, kind: str, **options: Any) -> Spec:
    pytest.importorskip(kind, reason=f"{kind} is not installed: pip install 'foundray[{kind}]'")
    given = {"mlflow": {"uri": f"sqlite:///{folder}/mlflow.db"}, "wandb": {"mode": "offline"}, "trackio": {}}[kind]
    return run.spec({"trackers": [{"kind": kind, **given, **options}]})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def started(run: Run, spec: Spec, said: list[str]) -> Tracking:
    return Tracking(run, spec, said.append)


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.thorough if kind == "mlflow" else ()) for kind in READ])
def test_kill_and_resume_leave_one_continuous_run_with_each_step_once(folder: Path, kind: str) -> None:
    said: list[str] = []
    run = run_with_records(folder / "runs", [event_at(0, "command"), event_at(0, "workers_started", step=0)])
    spec = spec_of(run, folder, kind)
    first = started(run, spec, said)
    run.append("metrics.jsonl", step_records(1, 700, 0))
    wait_until(lambda: noted(run) >= 700, 120, "the first steps are sent", pause=0.1)
    run.append("metrics.jsonl", step_records(701, 900, 700))
    time.sleep(1.0)  # somewhere in what it sends then
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    # The next command begins from a checkpoint, repeats steps, and ends.
    run.append("events.jsonl", [event_at(901, "workers_started", step=650)])
    run.append("metrics.jsonl", step_records(651, 1000, 910))
    run.append("events.jsonl", [event_at(1300, "evaluated", step=1000, val_loss=2.5), event_at(1301, "finished", step=1000)])
    again = started(run, spec, said)
    again.close(120)
    assert again.process.returncode == 0
    log = {record["step"]: record for record in run.records("metrics.jsonl")}
    for name, of in (("train/loss", "loss"), ("train/lr", "lr"), ("train/tokens_per_s", "tokens_per_s")):
        held = READ[kind](folder, name)
        assert [step for step, _ in held] == list(range(1, 1001))
        assert all(math.isclose(value, log[step][of], rel_tol=1e-12) for step, value in held)
    assert READ[kind](folder, "validation/loss") == [(1000, 2.5)]
    assert len(said) == 2 and all(line.startswith(f"{kind}: ") for line in said), said


def noted(run: Run) -> int:
    """The last step that the run's folder notes as sent."""
    steps = [json.loads(file.read_text())["sent"]["step"] for file in Path(run.folder.path).glob("trackers/*.json")]
    return max(steps, default=0)


def test_a_run_that_fails_or_is_interrupted_says_so_there(folder: Path) -> None:
    from mlflow import MlflowClient

    run = run_with_records(folder / "runs", [event_at(0, "command")], step_records(1, 3, 0))
    spec = spec_of(run, folder, "mlflow")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    for more, status in (([], "KILLED"), ([event_at(9, "failed", step=3)], "FAILED"), ([event_at(10, "finished")], "FINISHED")):
        run.append("events.jsonl", more)
        foundray.track(run.folder.path, {"trackers": spec.model_dump()["trackers"]})
        (there,) = client.search_runs([client.get_experiment_by_name("foundray").experiment_id])
        assert there.info.status == status
    assert there.data.params["optimizer.lr"] == "0.004"


class Place(BaseHTTPRequestHandler):
    """A service that is sent rows."""

    rows: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        self.rows.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(port: int = 0) -> Iterator[str]:
    """The service's URL, while it answers."""
    with ThreadingHTTPServer(("127.0.0.1", port), Place) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def hook(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracker that the documents show, installed as it stands there."""
    text = (REPOSITORY / "docs" / "how-to" / "trackers.md").read_text()
    (code,) = re.findall(r"```python\n(import json.*?)```", text, re.DOTALL)
    (package := folder / "package").mkdir()
    (package / "mine.py").write_text(code)
    (installed := package / "mine-0.1.dist-info").mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 0.1\n")
    (installed / "entry_points.txt").write_text("[foundray.trackers]\nmine = mine:Mine\n")
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")]))


def test_a_place_that_fails_is_said_once_and_made_up_for_later(folder: Path, hook: None) -> None:
    said: list[str] = []
    (port,) = free_ports("127.0.0.1", 1)
    run = run_with_records(folder / "runs", [event_at(0, "workers_started", step=0)], step_records(1, 5, 0))
    trackers = [{"kind": "mine", "url": f"http://127.0.0.1:{port}/"}]
    failing = started(run, run.spec({"trackers": trackers}), said)
    wait_until(lambda: bool(said), 60, "the failure is said")
    failing.close(60)
    assert failing.process.returncode == 1 and len(said) == 2
    assert said[0].startswith("mine lacks some of the run for now") and "refused" in said[0]
    assert "`foundray.track(run)` sends it later" in said[1]
    Place.rows.clear()
    with served(port):
        foundray.track(run.folder.path, {"trackers": trackers})
        foundray.track(run.folder.path, {"trackers": trackers})
    assert [row["train/loss"] for row in Place.rows if "train/loss" in row] == [2 + 4 / step for step in range(1, 6)]
    assert len([row for row in Place.rows if row["note"]]) == 1


def test_a_place_that_never_answers_holds_up_nobody(folder: Path, hook: None) -> None:
    said: list[str] = []
    run = run_with_records(folder / "runs", [event_at(0, "command")], step_records(1, 5, 0))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        hanging = started(run, run.spec({"trackers": [{"kind": "mine", "url": url}]}), said)
        with silent.accept()[0]:
            began = time.monotonic()
            hanging.close(0.5)
            assert time.monotonic() - began < 5
    assert said == ["the trackers lack the last of the run; `foundray.track(run)` sends it later"]


def test_a_tracker_whose_package_is_missing_is_refused_with_the_remedy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_with_records(folder / "runs", [event_at(0, "command")])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package wandb, which is not installed: pip install 'foundray\[wandb\]'"):
        foundray.track(run.folder.path, {"trackers": ["wandb"]})
    with pytest.raises(InputError, match="has no trackers"):
        foundray.track(run.folder.path)


def test_a_log_longer_than_what_is_read_at_a_time_is_sent_whole(folder: Path, hook: None) -> None:
    Place.rows.clear()
    run = run_with_records(folder / "runs", [event_at(0, "finished", step=23_000)], step_records(1, 23_000, 0))
    with served() as url:
        foundray.track(run.folder.path, {"trackers": [{"kind": "mine", "url": url}]})
    assert [row["step"] for row in Place.rows if "train/loss" in row] == list(range(1, 23_001))


@pytest.mark.parametrize(
    ("trackers", "says"),
    [
        (["wandbb"], "did you mean 'wandb'"),
        ([{"kind": "wandb", "api_key": "x"}], "wandb has these options: project, entity, mode"),
        ([{"kind": "mlflow", "uri": "http://me:hidden@host/"}], "holds a secret"),
    ],
)
def test_trackers_that_cannot_be_are_refused(trackers: list[Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as raised:
        make_spec(trackers=trackers)
    assert "hidden" not in str(raised.value)


def test_trackers_are_not_part_of_a_runs_identity() -> None:
    assert make_spec(trackers=["mlflow"]).fingerprint() == make_spec().fingerprint()
    assert make_spec(trackers="mlflow").trackers[0].kind == "mlflow"
