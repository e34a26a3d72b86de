"""Runs as jobs of a real cluster that requires a token, and whose head is killed and comes back."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import psutil
import pytest
from tests.command import FOUNDRAY, foundray, foundray_in_turn
from tests.hooked import Pace, install
from tests.terminal import Terminal

from foundray.cluster.local.cluster import LocalCluster
from foundray.cluster.local.ray_start import token_environment
from foundray.testing.runs import run_with_checkpoint
from foundray.testing.specs import small_spec, write_spec
from foundray.testing.waiting import wait_until

STEPS = 60
HOOKED = {"kind": "hooked"}
LINGER = 0.3
"""Seconds per micro-batch that keep a run from ending before it is stopped, even on a slow machine."""


@pytest.fixture(scope="module")
def pace(tmp_path_factory: pytest.TempPathFactory) -> Pace:
    """Environment of the cluster's nodes."""
    return Pace(tmp_path_factory.mktemp("pace") / "pace", 0.0)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, pace: Pace) -> Iterator[LocalCluster]:
    """A head whose state is kept in a Redis, and a node; the hooked objective is installed there."""
    if not all(map(shutil.which, ("redis-server", "redis-cli", "openssl"))):
        pytest.skip("redis-server, redis-cli or openssl is not installed")
    folder = tempfile.mkdtemp(prefix="fr-")  # short: Ray's sockets lie in it, and their paths are limited
    path = os.pathsep.join(filter(None, [str(install(tmp_path_factory.mktemp("hooked"))), os.environ.get("PYTHONPATH")]))
    Path(folder).rmdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOUNDRAY_LOCAL_CLUSTER", folder)
        patch.setenv("PYTHONPATH", path)
        with pytest.MonkeyPatch.context() as while_it_starts:
            for name, value in pace.environment.items():
                while_it_starts.setenv(name, value)
            made = LocalCluster.up(1, {"CPU": 2}, redis=True)
        yield made
        made.down()


@pytest.fixture(scope="module")
def spec(cluster: LocalCluster, prose: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("submitted")
    train = {"steps": STEPS, "micro_batches": 8, "micro_batch_size": 4, "evaluate_every": 1000, "checkpoint_every": 1000}
    scale = {"workers": [1, 2], "resources": {"CPU": 1}}
    return write_spec(folder, small_spec(prose, folder / "runs", model__width=64, train=train, scale=scale, objective=HOOKED))


def steps(run: Path) -> list[int]:
    """Recorded steps, each as often as it was done."""
    file = run / "metrics.jsonl"
    return [json.loads(line)["step"] for line in file.read_text().splitlines()] if file.exists() else []


def wait_for_step(run: Path, count: int) -> None:
    """Wait until `count` steps are recorded."""
    wait_until(lambda: len(steps(run)) >= count, 400, f"{count} steps of {run}", pause=0.2)


@pytest.fixture(scope="module")
def calm(spec: Path) -> str:
    """Weights of the same spec, trained without a job on one worker."""
    return str(foundray("train", spec, "--set", "name=calm", "--set", "scale.workers=1", "--json").facts["weights_sha256"])


def test_a_submitted_run_equals_the_run_on_a_laptop(cluster: LocalCluster, spec: Path) -> None:
    short, there = ("--set", "train.steps=4", "--set", "scale.workers=1"), ("--cluster", cluster.url)
    laptop, submitted, status, audit = foundray_in_turn(
        ("train", spec, *short, "--set", "name=laptop", "--json"),
        ("submit", spec, *short, "--set", "name=job", *there, "--follow"),
        ("status", "job", *there, "--json"),
        ("audit", spec.parent / "runs" / "job"),
    )
    assert submitted.status == 0, submitted.err
    assert "step 4: validation loss" in submitted.out
    facts = status.facts
    assert (facts["status"], facts["state"]) == ("SUCCEEDED", "finished")
    assert facts["weights_sha256"] == laptop.facts["weights_sha256"]
    assert "every one used exactly once" in audit.out


@pytest.mark.thorough
def test_a_run_that_is_left_and_stopped_and_loses_its_head_equals_the_run_on_a_laptop(
    cluster: LocalCluster, spec: Path, calm: str, pace: Pace
) -> None:
    url, run = cluster.url, spec.parent / "runs" / "small"
    submit = ("submit", spec, "--cluster", url)
    pace.set(LINGER)
    leave("small", FOUNDRAY, *submit, "--follow")
    wait_for_step(run, 3)
    again, other, stopped, new = foundray_in_turn(
        (*submit, "--json"),
        ("submit", spec, "--set", "optimizer.lr=0.001"),
        ("stop", run, "--cluster", url, "--json"),
        (*submit, "--driver", "worker", "--json"),
    )
    assert (again.facts["new"], again.facts["run"]) == (False, str(run)) and "no second one was started" in again.out
    assert "the name small is taken" in other.refusal
    status = stopped.facts
    assert (status["job"], status["status"], status["state"]) == ("small", "STOPPED", "stopped")
    assert steps(run).index(status["step"]) + 1 == status["step"] == status["checkpoint"] < STEPS

    assert new.facts["new"]
    wait_for_step(run, status["step"] + 3)
    lose_head(cluster)  # which the driver outlives on its node, and Redis for it
    pace.set(0)
    ended_like(calm, "small", run, cluster)
    assert commands(run) == 2, "the command of the lost head continued"


@pytest.mark.thorough
def test_a_run_that_loses_its_driver_with_the_head_continues_when_it_is_submitted_again(
    cluster: LocalCluster, spec: Path, calm: str, pace: Pace
) -> None:
    run = spec.parent / "runs" / "driverless"
    submit = ("submit", spec, "--cluster", cluster.url, "--set", "name=driverless", "--set", "train.checkpoint_every=5")
    pace.set(LINGER)
    leave_lost("driverless", FOUNDRAY, *submit, "--follow")
    wait_for_step(run, 8)
    lose_head(cluster)
    assert foundray(*submit, "--json").facts["new"]
    pace.set(0)
    ended_like(calm, "driverless", run, cluster)
    assert commands(run) == 2


def commands(run: Path) -> int:
    """Number of commands that have worked on the run."""
    return sum('"command"' in line for line in (run / "events.jsonl").read_text().splitlines())


def ended_like(calm: str, job: str, run: Path, cluster: LocalCluster) -> None:
    """Follow the job to its end: it has succeeded with these weights, and used every sample once."""
    there = ("--cluster", cluster.url)
    followed, status, audit = foundray_in_turn(
        ("logs", job, *there, "--follow"), ("status", job, *there, "--json"), ("audit", run)
    )
    assert followed.status == 0, followed.err
    assert re.search(rf"step {STEPS}: validation loss", followed.out)
    facts = status.facts
    assert (facts["status"], facts["state"], facts["weights_sha256"]) == ("SUCCEEDED", "finished", calm)
    assert "every one used exactly once" in audit.out


def test_no_secret_stands_in_a_command_line(cluster: LocalCluster) -> None:
    """Every user of the machine can read command lines."""
    assert cluster.redis
    processes = [process for node in (*cluster.nodes.values(), cluster.redis.node) for process in node.processes()]
    lines = [Path(f"/proc/{process.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode() for process in processes]
    assert {"gcs_server", "raylet", "redis-server"} <= {Path(line.split()[0]).name for line in lines if line.split()}
    secrets = [(cluster.folder / "token").read_text(), *(cluster.folder / "redis.key").read_text().splitlines()[1:-1]]
    assert not [line for line in lines if re.search(r"password=[\w-]*\w", line) or any(secret in line for secret in secrets)]


METHODS = (
    "NodeInfoGcsService/GetAllNodeInfo", "NodeManagerService/GetNodeStats", "ObjectManagerService/Pull",
    "CoreWorkerService/GetCoreWorkerStats", "ReporterService/GetTraceback",
)  # fmt: skip
"""One method of each of Ray's gRPC servers."""


def test_every_server_except_the_metrics_requires_the_token(cluster: LocalCluster) -> None:
    """As documented in clusters/README.md."""
    found: dict[str, set[str]] = {}
    for node in cluster.nodes.values():
        for process in node.processes():
            with suppress(psutil.NoSuchProcess):
                listening = [of.laddr for of in process.net_connections("tcp") if of.status == psutil.CONN_LISTEN]
                for ip, port in listening:
                    here = node.ip if ip in ("::", "0.0.0.0") else ip
                    found.setdefault(process.name(), set()).add(by_http(here, port) or by_grpc(f"{here}:{port}"))
    assert found["gcs_server"] == {"UNAUTHENTICATED"}
    assert "UNAUTHENTICATED" in found["raylet"] and {"401", "UNAUTHENTICATED"} <= found["ray::DashboardAgent"]
    assert set().union(*found.values()) <= {"401", "UNAUTHENTICATED", "metrics", "no answer"}, found


def by_http(ip: str, port: int) -> str | None:
    """HTTP status of a request without a token; None if the server does not speak HTTP."""
    try:
        asked = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with asked.open(f"http://{ip}:{port}/api/jobs/", timeout=3) as answer:
            return "metrics" if answer.read(6) == b"# HELP" else str(answer.status)
    except urllib.error.HTTPError as error:
        return str(error.code)
    except (OSError, http.client.HTTPException):
        return None


def by_grpc(address: str) -> str:
    """Status of the first method that the server has, called without a token."""
    with grpc.insecure_channel(address) as channel:
        for method in METHODS:
            try:
                channel.unary_unary(f"/ray.rpc.{method}")(b"", timeout=3)
                return "OK"
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE):
                    return str(error.code().name)
    return "no answer"


@pytest.mark.thorough
def test_rays_own_submission_works_too(cluster: LocalCluster, spec: Path, tmp_path: Path) -> None:
    """Its folder travels as a package, which every node unpacks for itself."""
    (tmp_path / "spec.yaml").write_text(spec.read_text())
    command = [str(Path(FOUNDRAY).with_name("ray")), "job", "submit", "--address", cluster.url, "--working-dir", ".", "--"]
    command += ["foundray", "train", "spec.yaml", "--set", "name=rays", "--set", "train.steps=3"]
    environment = {**os.environ, **token_environment(cluster.folder)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "step 3: validation loss" in done.stdout


@pytest.mark.thorough
def test_vectors_are_made_there(cluster: LocalCluster, tmp_path: Path) -> None:
    run = run_with_checkpoint(tmp_path / "runs")
    (texts := tmp_path / "texts.txt").write_text("\n".join(f"text number {number}" for number in range(2000)))
    flags = ("--cluster", cluster.url, "--set", "documents=line", "--normalise", "--workers", "2")
    command = ("submit", "--verb", "embed", run.folder, texts, tmp_path / "vectors")
    done = foundray(*command, *flags, "--follow")
    assert done.status == 0, done.err
    assert "admitted: " in done.out and "on 2 workers" in done.out and "2,000 vectors of 32 in 4 blocks" in done.out
    found, status, few, pool = foundray_in_turn(
        ("search", tmp_path / "vectors", "text number 7", "--top", "1", "--json"),
        ("status", "vectors-embed", *flags[:2], "--json"),
        (*command[:-1], *flags),
        ("submit", "spec.yaml", "--pool", "last", *flags[:2]),
    )
    assert (found.facts[0]["id"], found.facts[0]["text"]) == (f"{texts}#7", "text number 7")
    assert (status.facts["job"], status.facts["status"]) == ("vectors-embed", "SUCCEEDED")
    assert "--verb embed takes three places" in few.refusal
    assert "--pool goes with --verb embed" in pool.refusal


def leave(job: str, *command: object) -> None:
    """Submit a job and follow it: it continues although its viewer is interrupted."""
    left = Terminal(*command)
    try:
        left.until("training on")
        left.resize(30, 8)
        left.interrupt()
        assert left.end() == 130
        check_continues(job, left)
    finally:
        left.close()


def leave_lost(job: str, *command: object) -> None:
    """The same if viewers lose their terminal or their reader."""
    terminals = [closed := Terminal(*command)]
    try:
        closed.until("training on")
        terminals.append(read := Terminal("bash", "-o", "pipefail", "-c", '"$0" "${@:1}" | head -n 1', *command))
        closed.hang_up()
        assert (closed.process.wait(60), read.end()) == (129, 1)
        check_continues(job, read)
    finally:
        for terminal in terminals:
            terminal.close()


def check_continues(job: str, terminal: Terminal) -> None:
    assert f"{job} continues; foundray stop {job}" in " ".join(terminal.text.split()) and "Traceback" not in terminal.text


def lose_head(cluster: LocalCluster) -> None:
    cluster.kill("head")
    cluster.restart_head()


def test_bad_input(cluster: LocalCluster, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_with_checkpoint(spec.parent / "runs", name="taken")
    cases = (
        (("--cluster", "http://127.0.0.99:9"), "no cluster answers at http://127.0.0.99:9"),
        (("--cluster", "ray://here"), "give the URL of the cluster's dashboard"),
        (("--set", "storage=s3://key:secret@bucket/runs"), "holds a secret"),
        (("--set", "model.widht=3"), "did you mean 'width'?"),
        (("--set", "name=taken", "--set", "optimizer.lr=0.5"), "the run folder"),
        (("--set", "data.sources.0.path=/none.txt", "--set", "name=none"), "the source /none.txt does not exist"),
        (("--runtime-env", tmp_path / "none.yaml"), "none.yaml cannot be read"),
        (("--driver", "foo"), "it is head, worker, or resources"),
        (("--cluster", "http://me:sesame@127.0.0.10:8265"), "without a user or password"),
    )
    *refused, status, stop, yet = foundray_in_turn(
        *(("submit", spec, *arguments) for arguments, _ in cases),
        ("status", "nobody", "--cluster", cluster.url),
        ("stop", "nobody", "--cluster", cluster.url),
        ("status", tmp_path / "later", "--cluster", cluster.url, "--json"),
    )
    for (arguments, said), done in zip(cases, refused, strict=True):
        assert said in done.refusal.replace("\n", " "), arguments
    assert "knows no run nobody; there are:" in status.refusal
    assert "knows no run nobody" in stop.refusal
    assert (yet.facts["state"], yet.facts["status"]) == ("not begun", None) and "the run is not begun" in yet.out
    monkeypatch.setenv("FOUNDRAY_LOCAL_CLUSTER", str(tmp_path / "elsewhere"))  # from where the token is not known
    for variable in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(variable, raising=False)
    assert "asks for a token: set RAY_AUTH_MODE=token" in foundray("submit", spec, "--cluster", cluster.url).refusal
    (tmp_path / "token").write_text("x" * 64)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    wrong = foundray("submit", spec, "--cluster", cluster.url).refusal
    assert f"does not accept the token of RAY_AUTH_TOKEN_PATH={tmp_path}" in wrong and "xxx" not in wrong
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    assert "RAY_AUTH_TOKEN_PATH" in foundray("submit", spec, "--cluster", cluster.url).refusal
    relative = write_spec(tmp_path, small_spec(Path("data.txt"), Path("runs")))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(cluster.folder / "token"))
    assert "which the cluster's nodes do not know" in foundray("submit", relative, "--cluster", cluster.url).refusal
