"""Send a run to a cluster as a Ray job. Its submission id is the run's name, so that one job per run exists at a time."""

from __future__ import annotations

import secrets
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foundray.cluster.local.cluster import parse_resources
from foundray.errors import InputError, RunFailed
from foundray.jobs.client import Client, Refused
from foundray.jobs.follow import exit_status, lines
from foundray.jobs.package import packed
from foundray.jobs.travel import flags_of, found_there, overrides_there, travelling
from foundray.preflight.admission import ADMITTED, EXPECTED
from foundray.preflight.checkup.probe import code
from foundray.runs.extension import check_length
from foundray.runs.run import Run, check_keeps_its_folder
from foundray.spec import digest
from foundray.spec.loading import read_yaml
from foundray.tuning.search.from_scratch import check_from_scratch

STOP_SECONDS = 300
"""Longest time until a run reaches a step boundary and has written its checkpoint."""
ADMIT_SECONDS = 120.0
"""Longest time that submitting waits for the run's admission."""
AGENT_SECONDS = 60.0
"""Longest time until a node of a cluster that has just come up accepts jobs."""
SETTLE_SECONDS = 2.0
"""Time in which Ray releases a job that is over, so that its name can be used again."""

CHANGING = ("extend", "branch")
"""Verbs that change what a run is, so that another job of it does not do what they ask for."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A job to submit."""

    name: str
    """Its submission id."""
    entrypoint: str
    metadata: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)


def job_of(verb: str, target: str, overrides: Mapping[str, Any], on_this_machine: bool, as_json: bool) -> Job:
    """Build the job of a verb, for a cluster that may be on this machine. Raises InputError."""
    flags = " --json" if as_json else ""
    if verb == "resume":
        check_keeps_its_folder(overrides)
        run = _run_there(target, on_this_machine)
        there = overrides_there(overrides, on_this_machine)
        return Job(Path(run).name, f"resume {shlex.quote(run)}{flags_of(there)}{flags}", {"run": run, "verb": verb})
    spec, sets = travelling(target, overrides, on_this_machine)
    if verb == "tune":
        check_from_scratch(spec, verb)
    metadata = {"run": f"{spec.storage.rstrip('/')}/{spec.name}", "verb": verb, "fingerprint": spec.fingerprint()}
    name = spec.name if verb == "train" else f"{spec.name}-{verb}"
    return Job(name, f"{verb} spec.yaml{sets}{flags}", metadata, {"spec.yaml": read_yaml(target, "the spec")})


def extension_of(
    target: str, length: Mapping[str, Any], overrides: Mapping[str, Any], on_this_machine: bool, as_json: bool
) -> Job:
    """Build the job of `foundray extend`; `length` is one of steps, tokens and epochs. Raises InputError."""
    check_length(length)
    check_keeps_its_folder(overrides)
    run = _run_there(target, on_this_machine)
    flags = "".join(f" --{name} {value}" for name, value in length.items())
    flags += flags_of(overrides_there(overrides, on_this_machine))
    entrypoint = f"extend {shlex.quote(run)}{flags}{' --json' if as_json else ''}"
    return Job(Path(run).name, entrypoint, {"run": run, "verb": "extend", "fingerprint": digest(entrypoint)})


def branch_of(target: str, step: int | str | None, overrides: Mapping[str, Any], on_this_machine: bool, as_json: bool) -> Job:
    """Build the job of `foundray branch`, whose name is that of the run it makes. Raises InputError."""
    run = _run_there(target, on_this_machine)
    if "name" not in overrides and not isinstance(step, int):
        raise InputError("the job is called as the branch is: give that a name (--set name=...), or the number of its --step")
    there = overrides_there(overrides, on_this_machine)
    name = str(overrides.get("name", f"{Path(run).name}-{step}"))
    storage = str(there.get("storage", run.rpartition("/")[0])).rstrip("/")
    flags = ("" if step is None else f" --step {step}") + flags_of(there)
    entrypoint = f"branch {shlex.quote(run)}{flags}{' --json' if as_json else ''}"
    return Job(name, entrypoint, {"run": f"{storage}/{name}", "verb": "branch", "fingerprint": digest(entrypoint)})


def _run_there(target: str, on_this_machine: bool) -> str:
    """The folder of an existing run, as the cluster finds it. Raises InputError."""
    return Run.open(target).folder.url if on_this_machine else found_there("the run's folder", target.rstrip("/"), False)


def embedding_of(
    run: str, data: str, out: str, overrides: Mapping[str, Any], flags: str, on_this_machine: bool, as_json: bool
) -> Job:
    """Build the job of `foundray embed`; `flags` are those of the verb itself. Raises InputError."""
    places = {"the run's folder": _run_there(run, on_this_machine), "the data": data, "the folder of vectors": out}
    there = [found_there(name, place.rstrip("/"), on_this_machine) for name, place in places.items()]
    quoted = " ".join(map(shlex.quote, there))
    entrypoint = f"embed {quoted}{flags_of(overrides)}{flags}{' --json' if as_json else ''}"
    return Job(
        f"{Path(there[2]).name}-embed", entrypoint, {"run": there[2], "verb": "embed", "fingerprint": digest(entrypoint)}
    )


@dataclass
class Submission:
    """A job on a cluster, submitted by this command or an earlier one."""

    client: Client
    job: Job
    mark: str
    """Part of the log line after which the job's own output begins."""
    is_new: bool

    def lines(self) -> Iterator[str | None]:
        return lines(self.client, self.job.name, self.mark)

    def admitted(self, report: Report) -> None:
        """Wait for the run's admission, and report its output. Raises InputError or RunFailed if it is refused."""
        last, deadline = "", time.monotonic() + ADMIT_SECONDS
        for line in self.lines():
            if line is None and time.monotonic() > deadline:
                return report(f"{self.job.name} waits for a place on the cluster, or for its packages there")
            if line is None:
                continue
            report(line)
            last = line
            if line.startswith(ADMITTED):
                return
        if status := exit_status(self.client, self.job.name):
            said = last.removeprefix("foundray: ") or f"`foundray logs {self.job.name}` has what it said"
            raise (InputError if status == 2 else RunFailed)(f"{self.job.name} was not let in: {said}")


def submit(client: Client, job: Job, runtime_env: Mapping[str, Any], ship: bool, driver: str, report: Report) -> Submission:
    """Start the job, unless it is already running. `ship` sends the code; else the code installed there runs.

    `driver` says where it runs: `head`, `worker`, or on a node with resources such as `driver=1`. Raises InputError.
    """
    where = _where(client, driver)
    if client.runs(job.name):
        return _already(client, job, client.known(job.name), report)
    if client.info(job.name):
        client.forget(job.name)
        time.sleep(SETTLE_SECONDS)
    mark = secrets.token_hex(4)
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)} | ({} if ship else {EXPECTED: code() or ""})
    with packed(job.files, ship) as folder:
        environment = {**runtime_env, "env_vars": {**(runtime_env.get("env_vars") or {}), **variables}, "working_dir": folder}
        fields = {
            "entrypoint": f": {mark}; exec python -m foundray {job.entrypoint}",
            "submission_id": job.name,
            "runtime_env": environment,
            "metadata": {**job.metadata, "mark": mark},
            **where,
        }
        try:
            _send(client, fields)
        except Refused as error:
            if "already exists" in str(error):  # another command was quicker
                return _already(client, job, client.known(job.name), report)
            raise
        except (RuntimeError, TypeError, ValueError) as error:  # Ray rejects the environment
            raise InputError(f"the cluster did not take {job.name}: {str(error).strip().splitlines()[-1][:300]}") from None
    report(f"submitted {job.name} to {client.url}")
    return Submission(client, job, mark, is_new=True)


def _send(client: Client, fields: dict[str, Any]) -> None:
    """Submit, and retry while a cluster that has just come up has no agent to accept a job."""
    give_up = time.monotonic() + AGENT_SECONDS
    while True:
        try:
            client.ray.submit_job(**fields)
            return
        except Refused as error:
            if "No available agent" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(1)


def _where(client: Client, driver: str) -> dict[str, Any]:
    """Fields of the submission that place the driver. Raises InputError."""
    if driver == "head":  # Ray's own choice
        return {}
    if driver == "worker":
        return {"entrypoint_label_selector": {"ray.io/node-id": f"!{client.head()}"}}
    if "=" not in driver:
        raise InputError(f"--driver {driver}: it is head, worker, or resources of its node such as driver=1")
    resources = parse_resources(driver, "--driver")
    cpus, gpus = resources.pop("CPU", None), resources.pop("GPU", None)
    return {"entrypoint_num_cpus": cpus, "entrypoint_num_gpus": gpus, "entrypoint_resources": resources or None}


def _already(client: Client, job: Job, other: Any, report: Report) -> Submission:
    """Return the submission of the same run that already exists. Raises InputError if the name is another run's."""
    metadata = other.metadata or {}
    specs = {fingerprint for of in (metadata, job.metadata) if (fingerprint := of.get("fingerprint"))}
    changes = job.metadata["verb"] in CHANGING and metadata.get("fingerprint") != job.metadata["fingerprint"]
    if metadata.get("run") != job.metadata["run"] or len(specs) > 1 or changes:
        raise InputError(
            f"the name {job.name} is taken: {client.url} runs another spec by it, into {metadata.get('run', 'elsewhere')}; "
            "give this one another name (--set name=...), or stop that one"
        )
    report(f"{job.name} is on {client.url} already ({other.status.lower()}); no second one was started")
    return Submission(client, job, metadata.get("mark", ""), is_new=False)
