"""Refusals before anything starts: one sentence each, exit status 2, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foundray.cli import _run
from foundray.cluster.connect import fit
from foundray.errors import InputError
from foundray.inspection.describe import derived
from foundray.jobs.client import _pass_by_proxies, _reason
from foundray.runs.run import Run
from foundray.spec import ScaleConfig, Spec
from foundray.spec.loading import load_spec
from foundray.testing.runs import run_with_checkpoint
from foundray.testing.specs import small_spec, write_spec

LONG = "a" * 101


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A run, a spec's file, and a folder that is not a run's."""
    folder = tmp_path_factory.mktemp("refusals")
    (text := folder / "text.txt").write_text("some text " * 1000)
    spec = write_spec(folder, small_spec(text, folder / "runs"))
    (empty := folder / "empty").mkdir()
    return {"RUN": str(run_with_checkpoint(folder / "runs", name="begun").folder), "SPEC": str(spec), "EMPTY": str(empty)}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("train SPEC --dry-run --set evaluate.tasks.t.path=none.jsonl", "none.jsonl cannot be read"),
        (
            "train SPEC --dry-run --set evaluate.tasks.t.path=s3://k:sesame@b/x",
            "evaluate.tasks.t.path: s3://b/x holds a secret",
        ),
        (f"train SPEC --set name={LONG}", "name: it has 101 characters; the limit is 100"),
        (f"train SPEC --set name={LONG} --dry-run", "name: it has 101 characters"),
        (f"submit SPEC --set name={LONG} --cluster http://127.0.0.1:9", "name: it has 101 characters"),
        ("train SPEC --set name=prepared", "is reserved for prepared data"),
        ("train SPEC --set name=prepared --dry-run", "prepared data: choose another name"),
        ("prepare SPEC --set name=surveys", "is reserved for surveys"),
        ("resume RUN --set name=other", "--set name=...: an existing run has its folder's name and location"),
        ("resume RUN --set storage=/tmp/other", "--set storage=...: an existing run"),
        ("export RUN OUT --set name=other", "rename or move the folder instead"),
        ("submit RUN --verb resume --set name=other --cluster http://127.0.0.1:9", "--set name=..."),
        ("submit RUN --verb extend --cluster http://127.0.0.1:9", "one of --steps, --tokens and --epochs"),
        ("submit RUN --verb resume --steps 9 --cluster http://127.0.0.1:9", "--steps goes with --verb extend"),
        ("submit RUN --verb extend --steps 9 --step 4 --cluster http://127.0.0.1:9", "--step goes with --verb branch"),
        ("submit RUN --verb branch --step best --cluster http://127.0.0.1:9", "give that a name"),
        ("sample RUN --temperature nan", "--temperature must be a number of at least 0"),
        ("sample RUN --temperature inf", "--temperature must be a number of at least 0"),
        ("sample RUN --temperature=-1", "--temperature must be a number of at least 0"),
        ("status EMPTY/later", "/empty/later is not a run's folder: the run is not begun, or has another name"),
        ("watch EMPTY/later --wait 0", "/empty/later is not a run's folder: the run is not begun, or has another name"),
        ("logs EMPTY/later", "/empty/later is not a run's folder: the run is not begun, or has another name"),
        ("status EMPTY", "/empty is not a run's folder: spec.yaml and data.json are not in it"),
        ("cluster up --local --nodes=-1", "--nodes -1: it must be 0 or more"),
        ("cluster up --local --resources CPU=nan", "--resources 'CPU=nan': write kinds and amounts"),
        ("train SPEC --set scale.workers=3 --set storage=nonsense://x", "cannot be opened as storage"),
    ],
)
def test_refusals(
    command: str, said: str, places: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(Path(places["EMPTY"]).parent.rglob("*"))
    monkeypatch.chdir(Path(places["EMPTY"]).parent)
    monkeypatch.setenv("FOUNDRAY_LOCAL_CLUSTER", "/proc/none")
    for name, place in places.items():
        command = command.replace(name, place)
    assert _run(command.split()) == 2
    output = capsys.readouterr()
    assert said in output.err and len(output.err.splitlines()) == 1 and output.err.startswith("foundray: "), output.err
    assert "Traceback" not in output.out + output.err
    assert sorted(Path(places["EMPTY"]).parent.rglob("*")) == before, "nothing is written"


def test_a_run_from_before_there_were_limits_keeps_its_name(tmp_path: Path) -> None:
    run = run_with_checkpoint(tmp_path, name=LONG)
    assert Run.open(str(run.folder)).spec().name == LONG
    assert run.facts().run.endswith(LONG)
    assert Spec.model_validate_json(run.spec().model_dump_json()).name == LONG
    schema = Spec.model_json_schema()["properties"]["name"]
    assert (schema["maxLength"], schema["not"]) == (100, {"enum": ["prepared", "surveys"]})


def scale(**fields: Any) -> ScaleConfig:
    return ScaleConfig.model_validate(fields)


def test_gpus_on_a_machine_without_one(places: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked, nodes = scale(workers=1, resources={"CPU": 1, "GPU": 1}), [{"CPU": 8.0}]
    with pytest.raises(
        InputError, match=r"scale.resources asks for 1 CPU, 1 GPU per worker, and Ray finds no GPU on this machine"
    ):
        fit(asked, nodes, can_grow=False, report=lambda line: None)
    assert fit(asked, [{"CPU": 8.0, "GPU": 2.0}], can_grow=False, report=lambda line: None) == {"": (1, 1)}
    assert fit(asked, nodes, can_grow=True, report=lambda line: None) == {"": (1, 1)}, "a cluster may get some"
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    spec = load_spec(places["SPEC"], {"scale.resources": {"CPU": 1, "GPU": 1}})
    assert "asks for 1 GPU per worker, and torch finds none on this machine" in str(derived(spec)["workers"])
    assert "workers" not in derived(load_spec(places["SPEC"]))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert "workers" not in derived(spec), "what the cluster has is not known here"


IN_AN_AGENT = """\
Request failed with status code 500: Traceback (most recent call last):
  File "/ray/dashboard/modules/job/job_head.py", line 419, in submit_job
    resp = await job_agent_client.submit_job_internal(submit_request)
RuntimeError: Request failed with status code 500: Traceback (most recent call last):
  File "/ray/dashboard/modules/job/job_agent.py", line 49, in submit_job
    submission_id = await self.get_job_manager().submit_job(
OSError: [Errno 36] File name too long: '/tmp/ray/session/logs/job-driver-aaa.log'
.
"""


def test_a_refusal_that_passed_a_jobs_agent_says_why() -> None:
    assert _reason(IN_AN_AGENT) == "[Errno 36] File name too long: '/tmp/ray/session/logs/job-driver-aaa.log'"
    assert _reason("Job raysubmit_1 does not exist\n") == "Job raysubmit_1 does not exist"
    assert _reason("  \n.\n") == ""


def test_a_cluster_on_this_machine_is_asked_directly_whatever_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    import requests

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "elsewhere.org")
    for host in ("127.7.0.10", "localhost", "head.example.org"):
        _pass_by_proxies(host)
    proxied = {
        url: bool(requests.utils.get_environ_proxies(url))
        for url in ("http://127.7.0.10:8265", "http://localhost:8265", "http://elsewhere.org", "http://head.example.org:8265")
    }
    assert list(proxied.values()) == [False, False, False, True]


def test_a_run_that_is_nearly_called_so_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "demo-100").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"none in {tmp_path}/runs .*did you mean 'demo-100'\?"):
        Run.open("demo-10")
