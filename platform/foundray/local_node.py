"""What a cluster on this machine consists of: nodes, and perhaps a Redis. Each is a process that ends with all its children."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from foundray.errors import InputError
from foundray.processes import identity, living

START_SECONDS = 90.0
REDIS_SECONDS = 10.0
HEAD_IP = "127.0.0.10"
"""The nodes' come after it."""


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
    def start(folder: Path) -> Redis:
        """Raises InputError where Redis is not installed or does not start."""
        if not (program := shutil.which("redis-server")):
            raise InputError("redis-server is not installed; Debian's package redis-server has it")
        port, password = free_ports(HEAD_IP, 1)[0], secrets.token_hex(32)
        settings = folder / "redis.conf"
        settings.touch(mode=0o600)
        settings.write_text(
            f"bind {HEAD_IP}\nport {port}\nrequirepass {password}\ndir {folder}\nappendonly yes\nlogfile {folder}/redis.log\n"
        )
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
        process = subprocess.Popen([program, str(settings)], start_new_session=True, **quiet)
        try:
            if wait_for_port(HEAD_IP, port, REDIS_SECONDS):
                return Redis(folder, Node(HEAD_IP, process.pid, identity(psutil.Process(process.pid))))
        except BaseException:
            process.kill()
            raise
        process.kill()
        raise InputError(f"redis-server did not start: see {folder}/redis.log")

    @property
    def address(self) -> str:
        return f"{HEAD_IP}:{self._setting('port')}"

    @property
    def password(self) -> str:
        return self._setting("requirepass")

    def _setting(self, name: str) -> str:
        settings = dict(line.split(" ", 1) for line in (self.folder / "redis.conf").read_text().splitlines())
        return settings[name]


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
