"""`status` and `stop` for a run that is a job on a cluster."""

from __future__ import annotations

import json
import secrets
import shlex
import time
from collections.abc import Callable, Mapping
from typing import Any

from foundray.errors import InputError, RunFailed
from foundray.jobs.client import Client
from foundray.jobs.follow import exit_status, lines
from foundray.jobs.package import packed
from foundray.runs.run import NOT_BEGUN
from foundray.storage import Store

BEAT_SECONDS = 0.5
OF_NO_RUN = ("tune", "prepare", "embed")
"""Verbs whose jobs have no run's folder to report on."""
TAIL = 5
"""Number of lines shown of a job that has no run."""


def ask(client: Client, command: str, files: Mapping[str, str] | None = None, may_end_with: int = 0) -> tuple[int, list[str]]:
    """Run a `foundray` command on the cluster, which can read the storage. Returns its exit status and its output lines.

    `files` are sent along. Raises InputError or RunFailed if it ends with a status other than 0 and `may_end_with`.
    """
    job, mark = f"foundray-ask-{secrets.token_hex(4)}", secrets.token_hex(4)
    with packed(files or {}, code=True) as folder:
        entrypoint = f": {mark}; exec python -m foundray {command}"
        client.ray.submit_job(entrypoint=entrypoint, submission_id=job, runtime_env={"working_dir": folder})
        said = [line for line in lines(client, job, mark) if line is not None]
        status = exit_status(client, job)
    client.forget(job)
    if status not in (0, may_end_with):
        why = said[-1].removeprefix("foundray: ") if said else f"`foundray {command}` ended with {status} there"
        raise (InputError if status == 2 else RunFailed)(why)
    return status, said


def status(client: Client, run: str) -> tuple[dict[str, Any], list[str]]:
    """Return a run's status as facts and as lines: its job's state according to Ray, and the run's own status.

    For jobs of `OF_NO_RUN`, the lines end with the last lines of their output. Raises InputError or RunFailed.
    """
    name, folder, verb = job_named(client, run)
    info = client.info(name)
    state = str(info.status.value) if info else None
    known = f"{state.lower()} on {client.url}" if state else f"not known to {client.url}"
    job, line = {"job": name, "cluster": client.url, "status": state}, f"{'job':9} {name}, {known}"
    if verb in OF_NO_RUN:
        return job, [line, *client.ray.get_job_logs(name).splitlines()[-TAIL:]]
    failed, said = ask(client, f"status {shlex.quote(folder)} --text --json", may_end_with=InputError.exit_status)
    *shown, facts = said or [""]
    if failed:
        if NOT_BEGUN not in facts:
            raise InputError(facts.removeprefix("foundray: "))
        return {"state": "not begun", **job}, [line, facts.removeprefix("foundray: ")]
    return {**json.loads(facts), **job}, [line, *shown]


def stop(client: Client, run: str, report: Callable[[str], None]) -> tuple[dict[str, Any], list[str]]:
    """Stop a run's job at its next step boundary. Returns its `status` afterwards. Raises InputError or RunFailed."""
    name, _, verb = job_named(client, run)
    if not client.known(name).status.is_terminal():
        client.ray.stop_job(name)
        report("asked" if verb in OF_NO_RUN else "asked; it ends after the step under way, with a checkpoint")
    while not client.known(name).status.is_terminal():
        time.sleep(BEAT_SECONDS)
    return status(client, run)


def job_named(client: Client, run: str) -> tuple[str, str, str]:
    """Return the job, folder and verb of a run, given the job's name or the run's folder.

    Raises InputError if no job has the name, or if the job with the folder's name belongs to another folder.
    """
    name, is_folder = run.rstrip("/").rsplit("/", 1)[-1], "/" in run
    folder = Store.at(run).url.rstrip("/") if is_folder else ""
    info = client.info(name) if is_folder else client.known(name)
    if info is None or "run" not in (info.metadata or {}):
        return name, folder or run, "train"
    if is_folder and info.metadata["run"] != folder:
        raise InputError(f"the job {name} on {client.url} is that of {info.metadata['run']}, not of {folder}")
    return name, str(info.metadata["run"]), str(info.metadata.get("verb", "train"))
