"""A checkup of a real cluster of several nodes, and the messages if a cluster cannot be joined."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.command import FOUNDRAY, Done
from tests.repository import REPOSITORY

from foundray.cluster.local.cluster import LocalCluster
from foundray.testing.specs import small_spec, write_spec

CHECK = """
import json, sys, time
from foundray.preflight.checkup import check, source_files, unreachable
from foundray.cluster.connect import connected
from foundray.spec.loading import load_spec

spec = load_spec(sys.argv[1])
with connected():
    begun = time.monotonic()
    sentences = unreachable(spec.storage, source_files(spec))
    seconds = time.monotonic() - begun
    found = check(spec) if sys.argv[2] == "all" else None
result = {"check": found.to_dict(), "table": found.table()} if found else {}
print(json.dumps({"unreachable": sentences, "seconds": seconds, **result}))
"""
"""Run in its own process, since Ray reads the token once."""
OWN_STORAGE = 'mount -t tmpfs none "$0" && exec "$@"'


@dataclass
class Site:
    cluster: LocalCluster
    spec: Path
    storage: Path

    def environment(self) -> dict[str, str]:
        return {**os.environ, "RAY_ADDRESS": self.cluster.address, "FOUNDRAY_LOCAL_CLUSTER": str(self.cluster.folder)}

    def look(self, how: str) -> dict[str, Any]:
        command = [sys.executable, "-c", CHECK, str(self.spec), how]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def site(prose: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="fr-"))  # short: Ray's sockets lie in it, and their paths are limited
    storage = tmp_path_factory.mktemp("storage")
    spec = write_spec(tmp_path_factory.mktemp("spec"), small_spec(prose, storage))
    cluster = LocalCluster.up(1, {"CPU": 1}, folder, dashboard=False)
    yield Site(cluster, spec, storage)
    cluster.down()


def refusal(environment: dict[str, str], spec: Path) -> str:
    """Run a command that needs a cluster, and return the sentence of its prompt refusal."""
    begun = time.monotonic()
    done = subprocess.run([FOUNDRAY, "prepare", str(spec)], env=environment, capture_output=True, text=True, timeout=200)
    assert time.monotonic() - begun < 25
    return Done(done.returncode, done.stdout, done.stderr).refusal


def test_a_healthy_cluster_passes(site: Site) -> None:
    found = site.look("all")
    assert found["unreachable"] == []
    checkup = found["check"]
    assert checkup["fine"] and not [f for f in checkup["findings"] if f["stops"]]
    head, *others = checkup["nodes"]
    assert head["here"] and [node["storage"] for node in others] == [["fine", ""]]
    assert [len(node["products"].get("devices", ())) for node in checkup["nodes"]] == [0, 1]  # a head without CPUs
    assert all(device["tflops"] > 0 for node in others for device in node["products"]["devices"])
    assert len(checkup["links"]) == 1 and all(link["bandwidth"] > 1e6 for link in checkup["links"])
    assert len({node["facts"]["foundray"] for node in checkup["nodes"]}) == 1
    assert all(abs(node["skew"][0]) <= node["skew"][1] + 0.001 for node in checkup["nodes"])  # it is one clock
    assert others[0]["address"] in found["table"]
    assert list(site.storage.iterdir()) == []  # nothing is left behind


@pytest.mark.thorough
def test_a_node_with_another_foundray_and_storage_of_its_own(site: Site, tmp_path: Path) -> None:
    here = REPOSITORY / "platform" / "foundray"
    shutil.copytree(here, tmp_path / "foundray", ignore=lambda folder, names: ["checkup"])  # it need not know of checkups
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    apart = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", site.storage], capture_output=True).returncode == 0
    wrapper = ["unshare", "-m", "sh", "-c", OWN_STORAGE, str(site.storage)] if apart else []
    name = site.cluster.add({"CPU": 1}, environment={"PYTHONPATH": path}, wrapper=wrapper)
    node = f"node {site.cluster.nodes[name].ip}"
    try:
        found = site.look("all")
        refused = refusal(site.environment(), site.spec) if apart else ""
    finally:
        site.cluster.kill(name)
    stopping = [finding["sentence"] for finding in found["check"]["findings"] if finding["stops"]]
    assert not found["check"]["fine"]
    assert len(found["check"]["links"]) == 3, "one per pair of three nodes"
    assert stopping[0].startswith(node) and "version and digest of its files" in stopping[0]
    if not apart:
        pytest.skip("storage of a node's own takes a mount namespace, for which this user has no rights")
    assert found["unreachable"] == stopping[1:]
    assert found["unreachable"][0] in refused, "a run is not begun there either"
    assert [f"{node} (" in said and "a folder of its own" in said for said in found["unreachable"]] == [True]


def test_missing_and_wrong_tokens_are_refused(site: Site) -> None:
    bare = {k: v for k, v in site.environment().items() if not k.startswith("RAY_AUTH")}
    bare |= {"FOUNDRAY_LOCAL_CLUSTER": "/nonexistent", "HOME": "/nonexistent"}  # it does not know of the cluster's token
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong-and-secret"}
    assert "does not accept the token of RAY_AUTH_TOKEN: give the one" in (said := refusal(bare | wrong, site.spec))
    assert "wrong-and-secret" not in said
    assert "asks for a token, and this command gives none: set RAY_AUTH_MODE=token, and" in refusal(bare, site.spec)
    nowhere = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/nonexistent/token"}
    assert "RAY_AUTH_TOKEN_PATH=/nonexistent/token holds no token" in refusal(bare | nowhere, site.spec)


@pytest.mark.thorough
def test_a_cluster_of_another_ray(site: Site) -> None:
    note = """
import json, os, sys
from ray._raylet import GcsClient
store = GcsClient(address=os.environ["RAY_ADDRESS"])
key, namespace = b"CLUSTER_METADATA", b"cluster"
facts = json.loads(store.internal_kv_get(key, namespace=namespace))
store.internal_kv_put(key, json.dumps({**facts, "ray_version": sys.argv[1]}).encode(), True, namespace=namespace)
print(facts["ray_version"])
"""
    environment = {**site.environment(), **site.cluster.environment}

    def become(version: str) -> str:
        command = [sys.executable, "-c", note, version]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    before = become("2.49.0")
    try:
        assert "runs Ray 2.49.0 on Python 3." in (said := refusal(site.environment(), site.spec))
        assert f"and this command Ray {before} on Python 3." in said
    finally:
        become(before)


@pytest.mark.thorough
def test_a_machine_that_is_no_node(site: Site) -> None:
    """It is recognised by its node's address, which the command does not find in the cluster."""
    ask = "import sys; from foundray.cluster import head; head.PATIENCE_SECONDS = 1; head.ask_head(sys.argv[1], '127.0.0.9')"
    command = [sys.executable, "-c", ask, site.cluster.address]
    done = subprocess.run(command, env=os.environ | site.cluster.environment, capture_output=True, text=True, timeout=200)
    assert f"this machine is not a node of the cluster at RAY_ADDRESS={site.cluster.address}" in done.stderr


def test_an_address_where_nothing_answers(spec: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    said = refusal({**os.environ, "RAY_ADDRESS": f"127.0.0.1:{port}"}, spec)
    assert "connection refused): correct RAY_ADDRESS, start the head with" in said
