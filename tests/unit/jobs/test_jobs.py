"""Runs as jobs: what is sent to a cluster, and what is refused before anything is sent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distributions
from pathlib import Path

import pytest

from foundray.errors import InputError, RunFailed
from foundray.jobs import client
from foundray.jobs.client import Client, cluster_url
from foundray.jobs.follow import _Reader
from foundray.jobs.package import packed
from foundray.jobs.submit import branch_of, embedding_of, extension_of, job_of
from foundray.jobs.travel import travelling
from foundray.spec.loading import load_spec
from foundray.testing.runs import run_with_checkpoint
from foundray.testing.specs import small_spec, write_spec


@contextmanager
def server(answer: str) -> Iterator[str]:
    """An HTTP server that always gives the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FOUNDRAY_LOCAL_CLUSTER", str(tmp_path / "none"))
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")


def test_a_cluster_of_another_ray_and_what_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        server(json.dumps({"ray_version": "2.40.0"})) as url,
        pytest.raises(InputError, match=r"runs Ray 2\.40\.0, and"),
    ):
        Client(url)
    with server("<html>hello</html>") as url, pytest.raises(InputError, match="does not answer as a Ray cluster does"):
        Client(url)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="no cluster answers at "):
        Client(cluster_url(None))
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS")
    with pytest.raises(InputError, match="which cluster"):
        cluster_url(None)


def test_a_cluster_that_goes_away_while_a_verb_talks_to_it_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(client, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.5)
    with server(json.dumps({"ray_version": ray.__version__})) as url:
        talking = Client(url)
        with pytest.raises(RunFailed, match="does not know its head yet; try again"):
            talking.head()
    for question in (lambda: talking.info("x"), lambda: talking.known("x"), talking.head, lambda: talking.runs("x")):
        with pytest.raises(RunFailed, match=r"^the cluster at \S+ does not answer \(ConnectionError\); try again$"):
            question()


def test_code_and_spec_travel_and_are_found_by_entry_point(tmp_path: Path) -> None:
    with packed({"spec.yaml": "name: x\n"}, code=True) as folder:
        assert (Path(folder) / "spec.yaml").read_text() == "name: x\n"
        assert (Path(folder) / "foundray" / "training" / "elastic" / "loop.py").exists()
        assert not list(Path(folder).rglob("__pycache__"))
        (known,) = distributions(name="foundray", path=[folder])
        assert "next_token" in known.entry_points.select(group="foundray.objectives").names
        # A process of the job finds them there, whatever is installed.
        code = "from foundray.contract import load_objective; import sys; load_objective('next_token', {}); "
        code += "print(sys.modules['foundray_objectives.next_token'].__file__)"
        there = {**os.environ, "PYTHONPATH": folder}
        found = subprocess.run(
            [sys.executable, "-c", code], env=there, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert found.stdout.strip() == f"{folder}/foundray_objectives/next_token.py"
    assert not Path(folder).exists()


def test_a_tracker_of_ones_own_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_tracker.py").write_text("class Mine: pass\n")
    described = tmp_path / "my_tracker-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: my-tracker\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text("[foundray.trackers]\nmine = my_tracker:Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    with packed({}, code=True) as folder:
        assert (Path(folder) / "my_tracker.py").exists()
        assert (Path(folder) / "my_tracker-1.0.dist-info" / "entry_points.txt").exists()


def test_a_spec_is_the_same_there_wherever_its_places_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a text.txt").write_text("some text")
    spec = write_spec(tmp_path, small_spec(Path("a text.txt"), Path("runs")))
    there, flags = travelling(str(spec), {"optimizer.lr": 1e-4}, on_this_machine=True)
    assert (there.storage, there.data.sources[0].path) == (f"{tmp_path}/runs", f"{tmp_path}/a text.txt")
    assert there.fingerprint() == load_spec(spec, {"optimizer.lr": 1e-4}).fingerprint()
    assert "--set optimizer.lr=0.0001" in flags
    job = job_of("tune", str(spec), {}, on_this_machine=True, as_json=True)
    assert (job.name, job.metadata["run"]) == ("small-tune", f"{tmp_path}/runs/small")
    assert job.entrypoint.startswith("tune spec.yaml --set ") and job.entrypoint.endswith(" --json")
    with pytest.raises(InputError, match="storage is runs, which the cluster's nodes do not know"):
        job_of("train", str(spec), {}, on_this_machine=False, as_json=False)
    with pytest.raises(InputError, match="holds a secret") as refused:
        job_of("train", str(spec), {"storage": "s3://key:sesame@bucket"}, on_this_machine=True, as_json=False)
    assert "sesame" not in str(refused.value)
    Path("short.yaml").write_text("data: a text.txt")
    there, _ = travelling("short.yaml", {}, on_this_machine=True)
    assert (there.name, there.data.sources[0].path) == ("a-text", f"{tmp_path}/a text.txt"), "the smallest spec travels, too"


def test_an_embedding_knows_its_places_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    there = ("s3://bucket/runs/small", "s3://bucket/raw/*.txt", "s3://bucket/vectors/")
    job = embedding_of(*there, {"documents": "line"}, " --pool last", on_this_machine=False, as_json=True)
    assert (job.name, job.metadata["run"], job.files) == ("vectors-embed", "s3://bucket/vectors", {})
    assert job.entrypoint == (
        "embed s3://bucket/runs/small 's3://bucket/raw/*.txt' s3://bucket/vectors --set 'documents=\"line\"' --pool last --json"
    )
    other = embedding_of(*there, {}, " --pool last", on_this_machine=False, as_json=True)
    assert other.metadata["fingerprint"] != job.metadata["fingerprint"], "the name is taken, where it is for other vectors"
    with pytest.raises(InputError, match="the data is raw, which the cluster's nodes do not know"):
        embedding_of("s3://bucket/runs/small", "raw", "s3://bucket/vectors", {}, "", on_this_machine=False, as_json=False)
    run = run_with_checkpoint(Path("runs"))
    job = embedding_of("small", "raw/a b.txt", "vectors", {}, "", on_this_machine=True, as_json=False)
    assert job.entrypoint == f"embed {run.folder.url} '{tmp_path}/raw/a b.txt' {tmp_path}/vectors"


def test_a_run_made_longer_and_a_branch_are_jobs_named_as_what_they_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = extension_of("s3://bucket/runs/small/", {"steps": 200}, {"evaluate.sets.x.path": "s3://y"}, False, as_json=True)
    assert (job.name, job.metadata["run"], job.files) == ("small", "s3://bucket/runs/small", {})
    assert job.entrypoint == "extend s3://bucket/runs/small --steps 200 --set 'evaluate.sets.x.path=\"s3://y\"' --json"
    longer = extension_of("s3://bucket/runs/small", {"steps": 300}, {}, False, as_json=True)
    assert longer.metadata["fingerprint"] != job.metadata["fingerprint"], "another length is another job"
    for length in ({}, {"steps": 5, "tokens": 9}):
        with pytest.raises(InputError, match="one of --steps, --tokens and --epochs"):
            extension_of("s3://bucket/runs/small", length, {}, False, as_json=False)
    with pytest.raises(InputError, match="which the cluster's nodes do not know"):
        extension_of("s3://bucket/runs/small", {"steps": 200}, {"evaluate.sets.x.path": "y"}, False, as_json=False)

    job = branch_of("s3://bucket/runs/small", 40, {"optimizer.lr": 1e-4}, False, as_json=False)
    assert (job.name, job.metadata["run"]) == ("small-40", "s3://bucket/runs/small-40")
    assert job.entrypoint == "branch s3://bucket/runs/small --step 40 --set optimizer.lr=0.0001"
    job = branch_of("s3://bucket/runs/small", "best", {"name": "cool", "storage": "s3://other/"}, False, as_json=False)
    assert (job.name, job.metadata["run"]) == ("cool", "s3://other/cool")
    with pytest.raises(InputError, match="give that a name"):
        branch_of("s3://bucket/runs/small", "best", {}, False, as_json=False)
    run = run_with_checkpoint(Path("runs"))
    job = branch_of("small", 4, {"storage": "elsewhere"}, True, as_json=False)
    assert job.metadata["run"] == f"{tmp_path}/elsewhere/small-4"
    assert job.entrypoint == f"branch {run.folder.url} --step 4 --set 'storage=\"{tmp_path}/elsewhere\"'"


def test_a_log_that_is_sent_again_after_a_cut_is_shown_once() -> None:
    reader = _Reader("mark")
    reader.begin()
    assert [*reader.read("of another job\nRunning: mark\none\ntw")] == ["one"]
    reader.begin()  # the connection was cut
    assert [*reader.read("of another job\nRunning: mark\no"), *reader.read("ne\ntwo\nthree")] == ["two"]
    assert [*reader.rest()] == ["three"]
