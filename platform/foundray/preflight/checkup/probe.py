"""The actor that answers for a node.

The class travels by value, so that a node without Foundray, or with another version, can report that; it imports nothing of
Foundray before that is known. Answers are plain values.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from foundray.contract import MODALITIES, OBJECTIVES

PACKAGES = ("ray", "torch", "bitsandbytes", "numpy", "pyarrow")
SOURCES = ("foundray", "foundray_objectives", "foundray_modalities")
"""Packages compared by the content of their files, because two checkouts may have one version."""
CHUNK = 2**20
STREAM_BYTES = 64 * 2**20
STREAM_SECONDS = 1.0
CONNECT_SECONDS = 4.0
PINGS = 20


class Probe:
    def facts(self) -> dict[str, Any]:
        """Versions, and space in bytes."""
        shm = Path("/dev/shm")
        disk = shutil.disk_usage(tempfile.gettempdir())
        return {
            "machine": _machine(),
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in PACKAGES},
            "foundray": code(),
            "installed": {group: _installed(group) for group in (OBJECTIVES, MODALITIES)},
            "driver": _nvidia_driver(),
            "disk_free": disk.free,
            "disk_total": disk.total,
            "shm_total": shutil.disk_usage(shm).total if shm.exists() else None,
        }

    def clock(self) -> float:
        return time.time()

    def exchange(self, url: str, content: bytes, mark: str, reply: bytes) -> tuple[str, str]:
        """Read the driver's file in the folder `url`, and write `reply` beside it, as `mark`.

        Returns the result (`fine`, `apart`, `unreadable`, `unwritable` or `unknown`), and the reason.
        """
        try:
            from foundray.errors import InputError
            from foundray.storage import Store
        except ImportError as error:
            return "unknown", str(error)
        try:
            folder = Store.at(url)
            if not (folder / "driver").exists():
                return "apart", "" if folder.parent.exists() else "there is no such folder"
            if (folder / "driver").read_bytes() != content:
                return "apart", ""
        except (InputError, OSError) as error:
            return "unreadable", _reason(error)
        try:
            (folder / mark).write_bytes(reply)
        except (InputError, OSError) as error:
            return "unwritable", _reason(error)
        return "fine", ""

    def missing(self, files: dict[str, int]) -> tuple[int, str]:
        """Number of files (sizes by URL) that are missing or wrong here, and what is wrong with the first."""
        try:
            from foundray.errors import InputError
            from foundray.storage import Store
        except ImportError:
            return 0, ""  # `facts` reports it
        problems = []
        for url, size in files.items():
            try:
                info = Store.at(url).info()
            except (InputError, OSError) as error:
                problems.append(f"{shown(url)} cannot be read ({_reason(error)})")
                continue
            if not info.is_file:
                problems.append(f"{shown(url)} is not there")
            elif info.size != size:
                problems.append(f"{shown(url)} has {info.size:,} bytes there instead of {size:,}")
        return len(problems), problems[0] if problems else ""

    def listen(self, host: str, secret: bytes) -> int:
        """Accept one connection that begins with the secret: answer its pings, take its stream. Return the port."""
        server = socket.create_server((host, 0))
        server.settimeout(CONNECT_SECONDS + STREAM_SECONDS + 5)
        threading.Thread(target=_serve, args=(server, secret), daemon=True).start()
        return int(server.getsockname()[1])

    def stream(self, host: str, port: int, secret: bytes) -> dict[str, float] | str:
        """Round-trip latency in seconds and bytes per second of a raw TCP stream, or why there was none."""
        try:
            with socket.create_connection((host, port), timeout=CONNECT_SECONDS) as peer:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peer.sendall(secret)
                trips = []
                for _ in range(PINGS):
                    start = time.perf_counter()
                    peer.sendall(b"?")
                    _receive(peer, 1)
                    trips.append(time.perf_counter() - start)
                chunk, sent, start = bytes(CHUNK), 0, time.perf_counter()
                while sent < STREAM_BYTES and time.perf_counter() - start < STREAM_SECONDS:
                    peer.sendall(chunk)
                    sent += CHUNK
                peer.shutdown(socket.SHUT_WR)
                taken = int.from_bytes(_receive(peer, 8), "little")
                return {"latency": statistics.median(trips), "bandwidth": taken / (time.perf_counter() - start)}
        except OSError as error:
            return error.strerror or str(error)

    def products(self, program: str, threads: int, gpus: int, seconds: float) -> dict[str, Any]:
        """Run the text of `product.py` here, for at most `seconds`."""
        command = [sys.executable, "-c", program, str(threads), str(gpus)]
        environment = {k: v for k, v in os.environ.items() if k not in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
        environment.update(_node_devices())
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            return {"problem": f"a matrix product took longer than {seconds:.0f} s"}
        if done.returncode:
            return {"problem": (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]}
        return dict(json.loads(done.stdout.splitlines()[-1]))


def shown(url: str) -> str:
    """A URL without its secret parts."""
    return re.sub(r"://[^/@]*@", "://…@", url).partition("?")[0] if "://" in url else url


def _machine() -> str:
    """An id of the machine, the same for all its nodes until it boots."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _installed(group: str) -> list[str]:
    """Names of the entry points of a group."""
    return sorted({point.name for point in importlib.metadata.entry_points(group=group)})


def code() -> str | None:
    """Version of Foundray installed here, with a digest of its source files."""
    digest = hashlib.sha256()
    for package in SOURCES:
        if spec := importlib.util.find_spec(package):
            for folder in map(Path, spec.submodule_search_locations or []):
                for file in sorted(folder.rglob("*.py")):
                    digest.update(f"{package}/{file.relative_to(folder).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    try:
        return f"{importlib.import_module('foundray').__version__}+{digest.hexdigest()[:12]}"
    except (ImportError, AttributeError):
        return None


def _nvidia_driver() -> str | None:
    try:
        found = re.search(r"Module\D*([\d.]+)", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return None
    return found[1] if found else None


def _node_devices() -> dict[str, str]:
    """The GPUs with which this node's raylet, the parent of this process, was started; Ray changes them for its workers."""
    try:
        inherited = dict(pair.split("=", 1) for pair in Path(f"/proc/{os.getppid()}/environ").read_text().split("\0") if pair)
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in inherited.items() if name == "CUDA_VISIBLE_DEVICES"}


def _serve(server: socket.socket, secret: bytes) -> None:
    try:
        with server:
            peer, _ = server.accept()
        with peer:
            peer.settimeout(CONNECT_SECONDS + STREAM_SECONDS + 5)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if _receive(peer, len(secret)) != secret:
                return
            for _ in range(PINGS):
                peer.sendall(_receive(peer, 1))
            taken, buffer = 0, bytearray(CHUNK)
            while got := peer.recv_into(buffer):
                taken += got
            peer.sendall(taken.to_bytes(8, "little"))
    except OSError:
        pass  # the other end reports it


def _receive(peer: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        if not (chunk := peer.recv(count - len(content))):
            raise OSError("the connection ended")
        content += chunk
    return content


def _reason(error: Exception) -> str:
    """The error's reason without the path, which the sentence around it names."""
    return str(error).rpartition(": ")[2]
