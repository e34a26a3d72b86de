"""`submit`: send another verb to a cluster, as a Ray job."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from foundray.cli.embed import add_flags, embed_options, flags_given
from foundray.cli.extend import add_length, length_given
from foundray.cli.parsing import Verbs, add_step, overrides_of, say
from foundray.errors import InputError
from foundray.host import signals
from foundray.host.output import Unwritable, must_be_written

JOB_VERBS = ("train", "tune", "prepare", "resume", "extend", "branch", "embed")
"""Verbs that a cluster can run as a job."""


def add_to(verbs: Verbs) -> None:
    added = verbs.add("submit", _submit, "send a run to a cluster, as a Ray job of its name", "SPEC", overrides="spec")
    added.add_argument(
        "places",
        metavar="DATA OUT",
        nargs="*",
        help="with --verb embed, what a run embeds and where its vectors go: RUN DATA OUT",
    )
    about = "the verb to run there (default: train); those of a RUN, and embed RUN DATA OUT, with --verb before these"
    added.add_argument("--verb", dest="sent", choices=JOB_VERBS, default="train", help=about)
    add_length(added.add_argument_group("with --verb extend"))
    add_step(added.add_argument_group("with --verb branch"))
    add_flags(added.add_argument_group("with --verb embed"))
    added.add_argument(
        "--cluster", metavar="URL", help="its dashboard (default: RAY_API_SERVER_ADDRESS, or the cluster on this machine)"
    )
    added.add_argument("--follow", action="store_true", help="print its output until it ends, and end with its status")
    added.add_argument("--installed", action="store_true", help="run the Foundray installed there, not this one")
    added.add_argument(
        "--driver", default="head", metavar="WHERE",
        help="head (default); worker, which outlives a head that keeps its state in Redis; or a resource of its node: driver=1",
    )  # fmt: skip
    added.add_argument("--runtime-env", metavar="FILE", help="a YAML file of what else Ray sets up there: pip, env_vars, ...")


def _submit(options: Any) -> None:
    from foundray.cluster.local.cluster import local_cluster_at
    from foundray.jobs import submit as jobs
    from foundray.jobs.client import Client, cluster_url
    from foundray.jobs.follow import exit_status

    url = cluster_url(options.cluster)
    here = bool(local_cluster_at(url))
    if options.sent == "embed":
        job = _embed_job(options, here)
    else:
        job = _job(options, here)
    runtime_env = _runtime_env(options.runtime_env) if options.runtime_env else {}
    client = Client(url)
    submission = jobs.submit(client, job, runtime_env, not options.installed, options.driver, say)
    where = f"--cluster {url}"
    with _job_continues(f"{job.name} continues; foundray stop {job.name} {where} ends it"):
        if options.follow:
            must_be_written()  # the job continues without us; all that is left here is to show its log
            for line in submission.lines():
                if line is not None:
                    say(line)
        else:
            submission.admitted(say)
    if not options.follow:
        print(f"next: foundray logs {job.name} --follow {where}, or status, or stop")
        if options.json:
            print(json.dumps({"job": job.name, "cluster": url, "run": job.metadata["run"], "new": submission.is_new}))
        return
    sys.exit(exit_status(client, job.name))


def _job(options: Any, on_this_machine: bool) -> Any:
    """Return the job of any other verb. Raises InputError for flags that are another verb's."""
    from foundray.jobs import submit as jobs

    length, step = length_given(options), {} if options.step is None else {"step": options.step}
    for verb, given in (("embed", options.places or flags_given(options).split()), ("extend", length), ("branch", step)):
        if given and options.sent != verb:
            stray = next(iter(given)) if verb == "embed" else f"--{next(iter(given))}"
            raise InputError(f"{stray} goes with --verb {verb}, and the verb is {options.sent}")
    overrides = overrides_of(options)
    if options.sent == "extend":
        return jobs.extension_of(options.target, length, overrides, on_this_machine, options.json)
    if options.sent == "branch":
        return jobs.branch_of(options.target, options.step, overrides, on_this_machine, options.json)
    return jobs.job_of(options.sent, options.target, overrides, on_this_machine, options.json)


@contextmanager
def _job_continues(message: str) -> Iterator[None]:
    """If this command is interrupted or its output is gone, print that the job continues."""
    try:
        yield
    except (KeyboardInterrupt, Unwritable):
        print(f"foundray: {message}", file=sys.stderr)
        sys.exit(signals.exit_status() or 1)


def _embed_job(options: Any, on_this_machine: bool) -> Any:
    """Return the job that runs `embed` there. Raises InputError for flags that `embed` would reject."""
    from foundray.jobs.submit import embedding_of

    embed_options(options)  # raises here for what would fail there
    if len(options.places) != 2:
        raise InputError("--verb embed takes three places: foundray submit --verb embed RUN DATA OUT")
    data, out = options.places
    return embedding_of(options.target, data, out, overrides_of(options), flags_given(options), on_this_machine, options.json)


def _runtime_env(file: str) -> dict[str, Any]:
    from foundray.spec.loading import parse_fields, read_yaml

    fields = parse_fields(read_yaml(file, "the runtime environment"), file, "it has fields such as pip: [...]")
    if not isinstance(fields.get("env_vars") or {}, dict):
        raise InputError(f"{file}: env_vars must map names to strings")
    if "working_dir" in fields:
        raise InputError(f"{file}: working_dir is taken by the run's own files; use py_modules for your own code")
    return fields
