"""The verb that sends another verb to a cluster."""

from __future__ import annotations

import json
import sys
from typing import Any

from foundray.cli.parsing import Verbs, overrides_of, say
from foundray.errors import InputError

VERBS = ("train", "tune", "prepare", "resume")


def add_to(verbs: Verbs) -> None:
    added = verbs.add("submit", _submit, "send a run to a cluster, as a Ray job of its name", "SPEC", overrides="spec")
    added.add_argument(
        "--verb", dest="sent", choices=VERBS, default="train", help="what is done there (default: train; resume takes a RUN)"
    )
    added.add_argument(
        "--cluster", metavar="URL", help="its dashboard's (default: RAY_API_SERVER_ADDRESS, or the cluster on this machine)"
    )
    added.add_argument("--follow", action="store_true", help="show what it says, until it ends, and end as it ends")
    added.add_argument("--installed", action="store_true", help="run what is installed there, not the code that is here")
    added.add_argument(
        "--driver", default="head", metavar="WHERE",
        help="head (default); worker, where it outlives a head that keeps its state in Redis; or what its node has: driver=1",
    )  # fmt: skip
    added.add_argument("--runtime-env", metavar="FILE", help="YAML of more that Ray should set up there: pip, env_vars, ...")


def _submit(options: Any) -> None:
    from foundray.jobs import submit as jobs
    from foundray.jobs.client import Client, cluster_url
    from foundray.jobs.follow import exit_status
    from foundray.local_cluster import local_cluster_at

    url = cluster_url(options.cluster)
    job = jobs.job_of(options.sent, options.target, overrides_of(options), bool(local_cluster_at(url)), options.json)
    more = _runtime_env(options.runtime_env) if options.runtime_env else {}
    client = Client(url)
    submission = jobs.submit(client, job, more, not options.installed, options.driver, say)
    here = f"--cluster {url}"
    if not options.follow:
        try:
            submission.admitted(say)
        except KeyboardInterrupt:
            print(f"foundray: {job.name} goes on; foundray stop {job.name} {here} ends it", file=sys.stderr)
            sys.exit(130)
        print(f"next: foundray logs {job.name} --follow {here}, or status, or stop")
        if options.json:
            print(json.dumps({"job": job.name, "cluster": url, "run": job.metadata["run"], "new": submission.is_new}))
        return
    try:
        for line in submission.lines():
            if line is not None:
                say(line)
    except KeyboardInterrupt:
        print(f"foundray: {job.name} goes on; foundray stop {job.name} {here} ends it", file=sys.stderr)
        sys.exit(130)
    sys.exit(exit_status(client, job.name))


def _runtime_env(file: str) -> dict[str, Any]:
    from foundray.loading import parse_fields, read_yaml

    fields = parse_fields(read_yaml(file, "the runtime environment"), file, "it has fields such as pip: [...]")
    if not isinstance(fields.get("env_vars") or {}, dict):
        raise InputError(f"{file}: env_vars is a mapping of names to texts")
    if "working_dir" in fields:
        raise InputError(f"{file}: working_dir is what the run itself travels in; use py_modules for code of your own")
    return fields
