"""`cluster`: check a cluster before a run, or start a Ray cluster of several nodes on this machine."""

from __future__ import annotations

import json
import shlex
import sys
from typing import Any

from foundray.cli.parsing import Verbs, overrides_of, say


def add_to(verbs: Verbs) -> None:
    verbs = verbs.group("cluster", "look at a cluster before a run; or start one of several nodes on this machine")
    about = "look at every node of the cluster at RAY_ADDRESS: versions, clocks, storage, data, links, speed"
    added = verbs.add("check", _check, about, overrides="spec", shows=True)
    added.add_argument("spec", nargs="?", metavar="SPEC", help="a YAML file: look for its storage and data")
    added.add_argument("--storage", metavar="PLACE", help="storage, instead of the spec's")
    added.add_argument("--cluster", metavar="URL", help="the dashboard of another cluster: look from there, by a job")
    added = _add_local(verbs, "up", _up, "start a head and some nodes", resources=True)
    added.add_argument("--nodes", type=int, default=3, help="nodes beside the head (default: 3)")
    added.add_argument("--redis", action="store_true", help="keep the head's state in a Redis, so that the head may be lost")
    _add_local(verbs, "add", _add, "add a node", resources=True)
    _add_local(verbs, "kill", _kill, "end a node at once, as when a machine is lost", node=True)
    _add_local(verbs, "restart", _restart, "start the head again after it was killed (a cluster with --redis)")
    added = _add_local(verbs, "drain", _drain, "give notice that a node will go (kill it when the time is up)", node=True)
    added.add_argument("--notice", type=float, default=30, help="seconds until it goes (default: 30)")
    _add_local(verbs, "down", _down, "end all nodes")


def _add_local(verbs: Verbs, name: str, run: Any, about: str, node: bool = False, resources: bool = False) -> Any:
    added = verbs.add(name, run, about, as_json=False)
    added.add_argument(
        "--local", action="store_true", required=True, help="on this machine (the only kind that Foundray starts)"
    )
    if node:
        added.add_argument("node", help="the node's name")
    if resources:
        added.add_argument("--resources", default="CPU=1", metavar="CPU=1,GPU=0", help="of each node (default: CPU=1)")
    return added


def _check(options: Any) -> None:
    if options.cluster:
        return _check_by_job(options)
    from foundray.preflight.checkup import check
    from foundray.spec.loading import load_spec

    spec = load_spec(options.spec, overrides_of(options)) if options.spec else None
    found = check(spec, options.storage, say)
    print(found.table())
    if options.json:
        print(json.dumps(found.to_dict()))
    if not found.fine:
        sys.exit(1)


def _check_by_job(options: Any) -> None:
    from foundray.cluster.local.cluster import local_cluster_at
    from foundray.jobs.asking import ask
    from foundray.jobs.client import Client, cluster_url
    from foundray.jobs.travel import found_there, travelling
    from foundray.spec.loading import read_yaml

    url = cluster_url(options.cluster)
    here, files, flags = bool(local_cluster_at(url)), {}, " --json" if options.json else ""
    if options.spec:
        files = {"spec.yaml": read_yaml(options.spec, "the spec")}
        flags += f" spec.yaml{travelling(options.spec, overrides_of(options), here)[1]}"
    if options.storage:
        flags += f" --storage {shlex.quote(found_there('--storage', options.storage, here))}"
    status, lines = ask(Client(url), f"cluster check{flags}", files, may_end_with=1)
    print("\n".join(lines))
    sys.exit(status)


def _up(options: Any) -> None:
    from foundray.cluster.local.cluster import LocalCluster, parse_resources

    cluster = LocalCluster.up(options.nodes, parse_resources(options.resources), redis=options.redis)
    print(f"up: {', '.join(cluster.nodes)}; {cluster.url}")
    print(f"next: foundray submit SPEC --follow, or RAY_ADDRESS={cluster.address} foundray train SPEC")
    print("and from another terminal: foundray cluster kill --local NODE")


def _add(options: Any) -> None:
    from foundray.cluster.local.cluster import LocalCluster, parse_resources

    print(f"added: {LocalCluster().add(parse_resources(options.resources))}")


def _kill(options: Any) -> None:
    from foundray.cluster.local.cluster import LocalCluster

    LocalCluster().kill(options.node)


def _restart(options: Any) -> None:
    from foundray.cluster.local.cluster import LocalCluster

    LocalCluster().restart_head()


def _drain(options: Any) -> None:
    from foundray.cluster.local.cluster import LocalCluster

    LocalCluster().drain(options.node, options.notice)


def _down(options: Any) -> None:
    from foundray.cluster.local.cluster import LocalCluster

    LocalCluster().down()
