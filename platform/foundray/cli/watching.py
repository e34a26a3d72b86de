"""Verbs that look after a run which another command runs: here, or as a job on a cluster."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import foundray
from foundray.cli.parsing import TAKES, Verbs, say, say_aside
from foundray.host.signals import exit_status


def add_to(verbs: Verbs) -> None:
    added = verbs.add("status", _status, "tell where a run stands", "RUN")
    added.add_argument("--text", action="store_true", help="beside --json, the text as well")
    _on_a_cluster(added)
    verbs.add("watch", _watch, "show a run on the terminal as it goes", "RUN", as_json=False)
    added = verbs.add("logs", _logs, "tell what happened in a run, a line an event", "RUN", as_json=False)
    added.add_argument("--follow", action="store_true", help="go on until the run ends")
    added.add_argument("--json", action="store_true", help="print the record itself: each event and step, a JSON object a line")
    _on_a_cluster(added)
    _on_a_cluster(verbs.add("stop", _stop, "stop a run at its next step boundary, with a checkpoint", "RUN"))
    added = verbs.add("report", _report, "write one HTML page of a run, or of several side by side")
    added.add_argument("runs", nargs="+", metavar="RUN", help=TAKES["RUN"])
    added.add_argument("--out", metavar="FILE", help="(default: report.html, in the folder of the one run, or here)")


def _on_a_cluster(parser: Any) -> None:
    parser.add_argument(
        "--cluster", nargs="?", const="", metavar="URL",
        help="the run is a job there (default URL: RAY_API_SERVER_ADDRESS, or the cluster on this machine)",
    )  # fmt: skip


def _status(options: Any) -> None:
    if options.cluster is not None:
        from foundray.jobs import asking

        facts, shown = asking.status(_client(options.cluster), options.target)
        print("\n".join(shown))
        if options.json:
            print(json.dumps(facts))
        return
    from foundray.runs.run import Run
    from foundray.runs.status import standing

    if options.text or not options.json:
        print(standing(Run.open(options.target)))
    if options.json:
        print(foundray.status(options.target).to_json())


@contextmanager
def _left() -> Iterator[None]:
    """Ctrl-C is how one leaves a verb that shows something: its end, and no fault. Other signals tell who sent them."""
    with suppress(KeyboardInterrupt):
        yield
    if (status := exit_status()) and status != 128 + signal.SIGINT:
        sys.exit(status)


def _watch(options: Any) -> None:
    from foundray.runs.run import Run
    from foundray.runs.watching import watch

    with _left():
        watch(Run.open(options.target))


def _logs(options: Any) -> None:
    with _left():
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
    client = _client(options.cluster)
    name, _, _ = job_named(client, options.target)
    if not options.follow:
        client.known(name)
        sys.stdout.write(client.ray.get_job_logs(name))
        return
    for line in lines(client, name, (client.known(name).metadata or {}).get("mark", "")):
        if line is not None:
            say(line)
    sys.exit(exit_status(client, name))


def _stop(options: Any) -> None:
    if options.cluster is not None:
        from foundray.jobs import asking

        facts_there, shown = asking.stop(_client(options.cluster), options.target, say)
        print("\n".join(shown[:3]))
        if options.json:
            print(json.dumps(facts_there))
        if facts_there.get("state", "stopped") not in ("stopped", "finished", "not begun"):
            sys.exit(1)
        return
    facts = foundray.stop(options.target, say)
    print(f"{facts.run}: {facts.state}, step {facts.step:,}")
    if options.json:
        print(facts.to_json())


def _report(options: Any) -> None:
    from foundray.wording.sentences import plain

    place = plain(foundray.report(options.runs, options.out, say_aside))
    print(place)
    if options.json:
        print(json.dumps({"report": place}))


def _client(url: str) -> Any:
    from foundray.jobs.client import Client, cluster_url

    return Client(cluster_url(url))
