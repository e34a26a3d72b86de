"""Parts of a cluster on this machine: nodes, each a process that ends with all its children, and their addresses."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

import psutil

from foundray.host.processes import living

START_SECONDS = 180.0
TOO_BUSY = "timed out during startup"
"""Ray's message if a node has not started within 30 s, as on a busy machine: we try again."""
NETWORKS = range(1, 200)
"""Candidates for N: a cluster has the loopback addresses 127.N.0.0/16 to itself, so that several can be up at once."""

SEPARATE = 200
"""The network whose nodes have network stacks of their own, at addresses for tests of networks (RFC 2544). Who uses it has
made them.
"""


@dataclass
class Node:
    ip: str
    pid: int
    known_as: str
    """The process's identity, which distinguishes it from a later process with the same number."""

    def processes(self) -> list[psutil.Process]:
        process = living(self.pid, self.known_as)
        return [process, *process.children(recursive=True)] if process else []

    def kill(self) -> None:
        """Kill the node at once, with all its processes."""
        kill([self])


def kill(nodes: Iterable[Node]) -> None:
    """Kill the nodes at once, with all their processes."""
    processes = [process for node in nodes for process in node.processes()]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def free_network() -> int:
    """Choose N of a network 127.N.0.0/16 where nothing listens, at random: clusters that start together are not up yet."""
    taken = {connection.laddr.ip for connection in psutil.net_connections("tcp") if connection.laddr}
    free = [network for network in NETWORKS if not any(ip.startswith(f"127.{network}.") for ip in taken)]
    return random.SystemRandom().choice(free or NETWORKS)


def node_ip(network: int, number: int) -> str:
    """Address of a cluster's node; the head is number 0."""
    return str(ip_address("198.18.0.10" if network == SEPARATE else f"127.{network}.0.10") + number)


def agent_port(network: int, number: int) -> int:
    """Port of Ray's agent on a node, at every address of the machine; it lies below the ephemeral ports."""
    return 20_000 + 64 * (network % SEPARATE) + number % 64


def free_ports(ip: str, count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((ip, 0))
        return [probe.getsockname()[1] for probe in probes]


def wait_for_port(ip: str, port: int, seconds: float) -> bool:
    """Wait for a listener on the port. Returns whether there was one within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((ip, port), timeout=1):
            return True
        time.sleep(0.1)
    return False
