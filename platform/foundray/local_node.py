"""What a cluster on this machine consists of: nodes, and perhaps a Redis. Each is a process that ends with all its children."""

from __future__ import annotations

import contextlib
import random
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil

from foundray.errors import InputError
from foundray.processes import identity, living

START_SECONDS = 180.0
TOO_BUSY = "timed out during startup"
"""What Ray says if a node has not started within 30 s, which a busy machine may need: it is tried again."""
REDIS_SECONDS = 10.0
NETWORKS = range(1, 200)
"""N of the loopback addresses 127.N.0.0/16 that a cluster may have for its own, so that several can be up at once."""


@dataclass
class Node:
    ip: str
    pid: int
    known_as: str
    """The process's identity, so that another one with its number is not taken for it."""

    def processes(self) -> list[psutil.Process]:
        process = living(self.pid, self.known_as)
        return [process, *process.children(recursive=True)] if process else []

    def kill(self) -> None:
        """End it at once, with all its processes."""
        kill([self])


def kill(nodes: Iterable[Node]) -> None:
    """End them at once, with all their processes."""
    processes = [process for node in nodes for process in node.processes()]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


@dataclass
class Redis:
    """Keeps the head's state while the head is away."""

    folder: Path
    node: Node

    @staticmethod
    def start(folder: Path, ip: str) -> Redis:
        """Listening at the address given. Raises InputError where Redis is not installed or does not start."""
        if not (program := shutil.which("redis-server")):
            raise InputError("redis-server is not installed; Debian's package redis-server has it")
        port, password = free_ports(ip, 1)[0], secrets.token_hex(32)
        settings = folder / "redis.conf"
        settings.touch(mode=0o600)
        settings.write_text(
            f"bind {ip}\nport {port}\nrequirepass {password}\ndir {folder}\nappendonly yes\nlogfile {folder}/redis.log\n"
        )
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
        process = subprocess.Popen([program, str(settings)], start_new_session=True, **quiet)
        try:
            if wait_for_port(ip, port, REDIS_SECONDS):
                return Redis(folder, Node(ip, process.pid, identity(psutil.Process(process.pid))))
        except BaseException:
            process.kill()
            raise
        process.kill()
        raise InputError(f"redis-server did not start: see {folder}/redis.log")

    @property
    def address(self) -> str:
        return f"{self.node.ip}:{self._setting('port')}"

    @property
    def password(self) -> str:
        return self._setting("requirepass")

    def _setting(self, name: str) -> str:
        settings = dict(line.split(" ", 1) for line in (self.folder / "redis.conf").read_text().splitlines())
        return settings[name]


def free_network() -> int:
    """N of a network 127.N.0.0/16 where nobody listens: a random one, for clusters that start at once see no other yet."""
    taken = {connection.laddr.ip for connection in psutil.net_connections("tcp") if connection.laddr}
    free = [network for network in NETWORKS if not any(ip.startswith(f"127.{network}.") for ip in taken)]
    return random.SystemRandom().choice(free or NETWORKS)


def node_ip(network: int, number: int) -> str:
    """Of a cluster's node; the head is number 0."""
    return str(ip_address(f"127.{network}.0.10") + number)


def agent_port(network: int, number: int) -> int:
    """Where Ray's agent on a node listens, at every address of the machine: below the ports that programs are given."""
    return 20_000 + 64 * network + number % 64


def free_ports(ip: str, count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((ip, 0))
        return [probe.getsockname()[1] for probe in probes]


def wait_for_port(ip: str, port: int, seconds: float) -> bool:
    """Whether somebody listens there before the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((ip, port), timeout=1):
            return True
        time.sleep(0.1)
    return False
