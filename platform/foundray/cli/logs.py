"""`logs`: what happened in a run, one event per line."""

from __future__ import annotations

import sys
from typing import Any

import foundray
from foundray.cli.on_cluster import add_cluster, client_at
from foundray.cli.parsing import Verbs, say, say_aside
from foundray.cli.watch import until_interrupted


def add_to(verbs: Verbs) -> None:
    added = verbs.add("logs", _logs, "show what happened in a run, one line per event", "RUN", as_json=False, shows=True)
    added.add_argument("--follow", action="store_true", help="continue until the run ends")
    added.add_argument(
        "--json", action="store_true", help="print the record itself: each event and step, one JSON object per line"
    )
    add_cluster(added)


def _logs(options: Any) -> None:
    with until_interrupted():
        if options.cluster is not None:
            return _logs_of_job(options)
        from foundray.runs.logs import logs, raw
        from foundray.runs.run import Run

        run = Run.open(options.target)
        if options.json:
            raw(run, options.follow, say, say_aside)
        else:
            logs(run, options.follow, say)


def _logs_of_job(options: Any) -> None:
    from foundray.jobs.asking import job_named
    from foundray.jobs.follow import exit_status, lines

    if options.json:
        raise foundray.InputError("logs: --json and --cluster do not go together: a job's log is text; name the run's folder")
    client = client_at(options.cluster)
    name, _, _ = job_named(client, options.target)
    if not options.follow:
        client.known(name)
        sys.stdout.write(client.ray.get_job_logs(name))
        return
    for line in lines(client, name, (client.known(name).metadata or {}).get("mark", "")):
        if line is not None:
            say(line)
    sys.exit(exit_status(client, name))
