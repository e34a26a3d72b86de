"""A Redis server on this machine, which keeps the state of a local cluster's head while the head is away.

It requires a certificate rather than a password: Ray passes a password on in command lines, which every user can read.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from foundray.cluster.local.node import Node, free_ports, wait_for_port
from foundray.errors import InputError
from foundray.host.processes import identity

REDIS_SECONDS = 10.0
CERTIFICATE, KEY = "redis.pem", "redis.key"
"""The server and its only client share them. The key lets its owner connect, so it is stored in a folder of mode 700."""
CERTIFY = [
    "openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "3650",
    "-subj", "/CN=foundray-redis",
]  # fmt: skip


@dataclass
class Redis:
    folder: Path
    node: Node

    @staticmethod
    def start(folder: Path, ip: str) -> Redis:
        """Start a server that listens at `ip`. Raises InputError if a program is missing, or the server does not start."""
        for program in ("redis-server", "openssl"):
            if not shutil.which(program):
                raise InputError(f"{program} is not installed; Debian's package {program} has it")
        _certify(folder, ip)
        (port,) = free_ports(ip, 1)
        settings = {
            "bind": ip,
            "port": 0,  # nothing listens without TLS
            "tls-port": port,
            "tls-cert-file": folder / CERTIFICATE,
            "tls-key-file": folder / KEY,
            "tls-ca-cert-file": folder / CERTIFICATE,
            "tls-auth-clients": "yes",
            "dir": folder,
            "appendonly": "yes",
            "logfile": folder / "redis.log",
        }
        (file := folder / "redis.conf").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
        process = subprocess.Popen(["redis-server", str(file)], start_new_session=True, **quiet)
        try:
            if wait_for_port(ip, port, REDIS_SECONDS):
                return Redis(folder, Node(ip, process.pid, identity(psutil.Process(process.pid))))
        except BaseException:
            process.kill()
            raise
        process.kill()
        raise InputError(f"redis-server did not start: see {folder}/redis.log")

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which the head keeps its state here."""
        settings = dict(line.split(" ", 1) for line in (self.folder / "redis.conf").read_text().splitlines())
        certificate = str(self.folder / CERTIFICATE)
        return {
            "RAY_REDIS_ADDRESS": f"rediss://{self.node.ip}:{settings['tls-port']}",
            "RAY_REDIS_CA_CERT": certificate,
            "RAY_REDIS_CLIENT_CERT": certificate,
            "RAY_REDIS_CLIENT_KEY": str(self.folder / KEY),
        }


def _certify(folder: Path, ip: str) -> None:
    """Make a certificate and its key. Raises InputError."""
    (folder / KEY).touch(mode=0o600)
    named = ["-addext", f"subjectAltName=IP:{ip}", "-keyout", str(folder / KEY), "-out", str(folder / CERTIFICATE)]
    done = subprocess.run([*CERTIFY, *named], capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it did not say why"]
        raise InputError(f"openssl made no certificate for Redis: {said[-1]}")
