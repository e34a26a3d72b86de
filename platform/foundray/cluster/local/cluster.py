"""Start, change and end a real Ray cluster of several nodes on this machine.

Every node is its own `ray start` with its own address (127.N.0.x), and dies like a machine: all its processes at once. A
folder records the nodes and their token, so that every command finds them.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import psutil

from foundray.cluster.local import ray_start
from foundray.cluster.local.node import (
    START_SECONDS,
    TOO_BUSY,
    Node,
    free_network,
    free_ports,
    kill,
    node_ip,
    wait_for_port,
)
from foundray.cluster.local.ray_start import token_environment
from foundray.cluster.local.redis import Redis
from foundray.errors import InputError
from foundray.host.processes import identity
from foundray.host.writable import check_temporary_folder


def default_folder() -> Path:
    return Path(os.environ.get("FOUNDRAY_LOCAL_CLUSTER") or Path(tempfile.gettempdir()) / f"foundray-cluster-{os.getuid()}")


class LocalCluster:
    def __init__(self, folder: Path | None = None):
        """Open the cluster recorded in the folder. Raises InputError if there is none."""
        self.folder = folder or default_folder()
        try:
            state = json.loads((self.folder / "cluster.json").read_text())
        except FileNotFoundError:
            raise InputError("no local cluster is up; start one with `foundray cluster up --local`") from None
        self.network: int = state.get("network", 0)  # absent from clusters of older versions
        self.port: int = state["port"]
        self.dashboard_port: int = state["dashboard_port"]
        self.has_dashboard: bool = state.get("has_dashboard", True)
        self.added: int = state["added"]
        self.nodes = {name: Node(**node) for name, node in state["nodes"].items()}
        self.redis = Redis(self.folder, Node(**state["redis"])) if state["redis"] else None
        """Keeps the head's state; None if the head's state dies with it."""

    @staticmethod
    def up(
        nodes: int,
        resources: Mapping[str, float],
        folder: Path | None = None,
        redis: bool = False,
        dashboard: bool = True,
        network: int | None = None,
    ) -> LocalCluster:
        """Start a head without resources of its own, and nodes `node-1`, `node-2`, ...

        With `redis`, a Redis server keeps the head's state, so that the head can be killed and restarted. Jobs can be submitted
        only with `dashboard`, which takes some seconds to start. `network` chooses the addresses (default: free ones). Raises
        InputError.
        """
        if nodes < 0:
            raise InputError(f"--nodes {nodes}: it must be 0 or more")
        folder = folder or default_folder()
        if (folder / "cluster.json").exists():
            raise InputError(f"a local cluster is up already (in {folder}); end it with `foundray cluster down --local`")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise InputError(f"{folder} belongs to another user")
        check_temporary_folder(folder, "name another one in FOUNDRAY_LOCAL_CLUSTER, such as /tmp/cluster")
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        network = free_network() if network is None else network
        port, dashboard_port = free_ports(node_ip(network, 0), 2)
        fresh = {
            "network": network, "port": port, "dashboard_port": dashboard_port, "has_dashboard": dashboard, "added": 0,
            "nodes": {}, "redis": None,
        }  # fmt: skip
        (folder / "cluster.json").write_text(json.dumps(fresh))
        cluster = LocalCluster(folder)
        try:
            if redis:
                cluster.redis = Redis.start(folder, cluster.head_ip)
            cluster._start_head()
            for _ in range(nodes):
                cluster.add(resources)
        except BaseException:
            cluster.down()
            raise
        return cluster

    @property
    def head_ip(self) -> str:
        return node_ip(self.network, 0)

    @property
    def address(self) -> str:
        return f"{self.head_ip}:{self.port}"

    @property
    def url(self) -> str:
        """URL of the dashboard, where jobs are submitted."""
        return f"http://{self.head_ip}:{self.dashboard_port}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which a process joins: the address, and the token's path."""
        return {"RAY_ADDRESS": self.address, **token_environment(self.folder)}

    def add(
        self,
        resources: Mapping[str, float],
        name: str | None = None,
        environment: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> str:
        """Add a node whose processes get the variables of `environment`. Returns its name.

        `wrapper` is a command that runs the node's command, for example with its own file system. Raises InputError.
        """
        self.added += 1
        name = name or f"node-{self.added}"
        if name in self.nodes:
            raise InputError(f"there is a node {name} already")
        # One session folder per node: in a shared one, each node would unpack a job's package over the one that others use.
        own = self.folder / f"n{self.added}"
        self._share_logs(own)
        arguments = [f"--address={self.address}", "--include-log-monitor=false", f"--temp-dir={own}"]
        self._start(name, self.added, resources, arguments, environment or {}, wrapper)
        return name

    def _start_head(self) -> None:
        dashboard = ["--include-dashboard=false"]
        if self.has_dashboard:
            dashboard = [
                "--include-dashboard=true",
                f"--dashboard-host={self.head_ip}",
                f"--dashboard-port={self.dashboard_port}",
            ]
        arguments = ["--head", f"--port={self.port}", f"--temp-dir={self.folder / 'ray'}", *dashboard]
        self._start("head", 0, {"CPU": 0}, arguments, self.redis.environment if self.redis else {})
        if self.has_dashboard:
            wait_for_port(self.head_ip, self.dashboard_port, START_SECONDS)

    def restart_head(self) -> None:
        """Start the head again at its old address, with the state that Redis kept. Raises InputError."""
        if "head" in self.nodes and self.nodes["head"].processes():
            raise InputError("the head is running; only one that was killed is restarted")
        if not self.redis:
            raise InputError(
                "the head's state died with it: start a cluster whose state is kept with `foundray cluster up --local --redis`"
            )
        (self.folder / "ray" / "ray_current_cluster").unlink(missing_ok=True)  # else Ray would think that the old head is alive
        self._start_head()

    def _start(
        self,
        name: str,
        number: int,
        resources: Mapping[str, float],
        arguments: list[str],
        environment: Mapping[str, str],
        wrapper: Sequence[str] = (),
    ) -> None:
        ip = node_ip(self.network, number)
        command = [*wrapper, *ray_start.command(self.network, number, name, resources), *arguments]
        log = self.folder / f"{name}.log"
        variables = {**ray_start.environment(ip, self.folder), **environment}
        deadline = time.monotonic() + START_SECONDS
        while (why := self._launched(name, ip, command, variables, log, deadline)) is not None:
            self.kill(name)
            if TOO_BUSY not in why or time.monotonic() > deadline:
                raise InputError(f"the node {name} did not start: {why}")

    def _launched(
        self, name: str, ip: str, command: Sequence[str], environment: Mapping[str, str], log: Path, deadline: float
    ) -> str | None:
        """Start a node's processes, and wait until Ray runs there. Returns the reason if it does not, else None."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.nodes[name] = Node(ip, process.pid, identity(psutil.Process(process.pid)))
        self._save()
        while "Ray runtime started" not in (said := log.read_text(errors="replace")):
            if process.poll() is not None or time.monotonic() > deadline:
                return (said.strip().splitlines() or ["it said nothing"])[-1]
            time.sleep(0.1)
        return None

    def _share_logs(self, own: Path) -> None:
        """Store a node's logs with the head's, where its agent looks for jobs' logs, since all nodes share one host."""
        session = (self.folder / "ray" / "session_latest").resolve()
        (own / session.name).mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            (own / session.name / "logs").symlink_to(session / "logs")

    def kill(self, *names: str) -> None:
        """Kill nodes at once with all their processes (SIGKILL), as when machines are lost. Raises InputError."""
        kill([self._node(name) for name in names])
        for name in names:
            del self.nodes[name]
        self._save()

    def drain(self, name: str, seconds: float) -> None:
        """Give notice that a node will go in `seconds`, as a cloud does before it takes a spot machine back.

        This does not end the node: its owner does when the time is up. Raises InputError.
        """
        if not 0 <= seconds < math.inf:
            raise InputError(f"--notice {seconds:g}: it is a number of seconds, 0 or more")
        command = [
            ray_start.RAY,
            "drain-node",
            f"--address={self.address}",
            f"--node-id={self.node_id(name)}",
            "--reason=DRAIN_NODE_REASON_PREEMPTION",
            "--reason-message=foundray cluster drain",
            f"--deadline-remaining-seconds={int(seconds)}",
        ]
        done = subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["Ray did not say why"]
            raise InputError(f"the node {name} was not drained: {said[-1]}")

    def node_id(self, name: str) -> str:
        """Ray's id of a node. Raises InputError."""
        for process in self._node(name).processes():
            if found := re.search(r"--node[_-]id=([0-9a-f]{20,})", " ".join(_command(process))):
                return found[1]
        raise InputError(f"the node {name} is not running")

    def down(self) -> None:
        """End all nodes, and delete the cluster's folder."""
        kill([*self.nodes.values(), *([self.redis.node] if self.redis else [])])
        shutil.rmtree(self.folder, ignore_errors=True)

    def _node(self, name: str) -> Node:
        if name not in self.nodes:
            raise InputError(f"there is no node {name}; there are: {', '.join(self.nodes)}")
        return self.nodes[name]

    def _save(self) -> None:
        state = {
            "network": self.network,
            "port": self.port,
            "dashboard_port": self.dashboard_port,
            "has_dashboard": self.has_dashboard,
            "added": self.added,
            "nodes": {name: asdict(node) for name, node in self.nodes.items()},
            "redis": asdict(self.redis.node) if self.redis else None,
        }
        temporary = self.folder / "cluster.json.tmp"
        temporary.write_text(json.dumps(state))
        temporary.replace(self.folder / "cluster.json")


def parse_resources(text: str, flag: str = "--resources") -> dict[str, float]:
    """Parse `CPU=1,GPU=0.5`. Raises InputError."""
    try:
        amounts = {kind.strip(): float(amount) for kind, amount in (part.split("=") for part in text.split(","))}
        if not all(0 <= amount < math.inf for amount in amounts.values()):
            raise ValueError
        return amounts
    except ValueError:
        raise InputError(f"{flag} {text!r}: write kinds and amounts, such as CPU=2,slot=1") from None


def local_cluster_at(address: str) -> LocalCluster | None:
    """The local cluster, if the address or URL is its own; else None."""
    try:
        cluster = LocalCluster()
    except InputError:
        return None
    return cluster if address in (cluster.address, cluster.url) else None


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
