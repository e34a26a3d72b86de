"""What `status`, `logs` and `stop` do where the run is a job on a cluster."""

from __future__ import annotations

import json
import secrets
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from foundray.errors import InputError, RunFailed
from foundray.jobs.client import Client
from foundray.jobs.follow import exit_status, lines
from foundray.jobs.package import packed
from foundray.storage import Store

BEAT_SECONDS = 0.5


def ask(client: Client, command: str, files: Mapping[str, str] | None = None, may_end_with: int = 0) -> tuple[int, list[str]]:
    """What a `foundray` command says there, where storage can be read, and its exit status. `files` go with it.

    Raises InputError or RunFailed where it ends with another status than 0 and the one given.
    """
    job, mark = f"foundray-ask-{secrets.token_hex(4)}", secrets.token_hex(4)
    with packed(client.url, files or {}, code=True) as folder:
        entrypoint = f": {mark}; exec python -m foundray {command}"
        client.ray.submit_job(entrypoint=entrypoint, submission_id=job, runtime_env={"working_dir": folder})
    said = [line for line in lines(client, job, mark) if line is not None]
    status = exit_status(client, job)
    with suppress(RuntimeError):
        client.ray.delete_job(job)
    if status not in (0, may_end_with):
        why = said[-1].removeprefix("foundray: ") if said else f"`foundray {command}` ended with {status} there"
        raise (InputError if status == 2 else RunFailed)(why)
    return status, said


def status(client: Client, run: str) -> tuple[dict[str, Any], list[str]]:
    """Where a run stands: what Ray says of its job, with the run's facts; and the same for people. Raises InputError."""
    name, folder = _job_and_folder(client, run)
    info = client.info(name)
    state = str(info.status.value) if info else None
    *shown, facts = ask(client, f"status {shlex.quote(folder)} --text --json")[1]
    told = f"{state.lower()} on {client.url}" if state else f"not known to {client.url}"
    return {**json.loads(facts), "job": name, "cluster": client.url, "status": state}, [f"{'job':9} {name}, {told}", *shown]


def stop(client: Client, run: str, report: Callable[[str], None]) -> str:
    """Stop a run's job at its next step boundary; gives the job's last status. Raises InputError."""
    name, _ = _job_and_folder(client, run)
    if not client.known(name).status.is_terminal():
        client.ray.stop_job(name)
        report("asked; a run ends after the step under way, with a checkpoint")
    while not (info := client.known(name)).status.is_terminal():
        time.sleep(BEAT_SECONDS)
    return str(info.status.value)


def _job_and_folder(client: Client, run: str) -> tuple[str, str]:
    """A run is named by its job, or by its folder. Raises InputError where there is no such job, and no folder was given."""
    name = run.rstrip("/").rsplit("/", 1)[-1]
    if (info := client.info(name)) and "run" in (info.metadata or {}):
        return name, str(info.metadata["run"])
    if "/" not in run:
        client.known(name)
    return name, Store.at(run).url
