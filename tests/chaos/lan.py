"""A network on which each node of a local cluster has its own stack, so that packets between some of them can be lost.

Real: kernel namespaces, joined by a bridge. A node sees no other node's processes and shared memory either, so that its workers
talk to others by the network alone.
"""

from __future__ import annotations

import json
import shutil
import subprocess

from foundray.cluster.local.node import SEPARATE, node_ip

BRIDGE = "foundray-lan"
NOWHERE = "02:00:00:00:00:01"
"""A hardware address that nothing on the bridge has."""
INSIDE = 'mount -t tmpfs none /dev/shm && exec "$@"'


class Lan:
    """The bridge, which has the head's address. Raises PermissionError if this user may not make networks."""

    def __init__(self) -> None:
        if not all(shutil.which(program) for program in ("ip", "unshare", "nsenter")):
            raise PermissionError("ip, unshare or nsenter is not installed")
        self.names: dict[str, str] = {}
        """Namespaces, by the address in them."""
        self.cut: set[tuple[str, str]] = set()
        _remove_unused()
        _call("ip", "link", "add", BRIDGE, "type", "bridge")
        _call("ip", "address", "add", f"{node_ip(SEPARATE, 0)}/16", "dev", BRIDGE)
        _call("ip", "link", "set", BRIDGE, "up")

    def host(self, number: int) -> list[str]:
        """Give the cluster's node of this number its stack. Returns the command in which the node's own has to run."""
        ip, name, port = node_ip(SEPARATE, number), f"foundray-{number}", f"fr-{number}"
        _delete(name, port)  # those of an earlier cluster
        _call("ip", "netns", "add", name)
        self.names[ip] = name
        _call("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
        _call("ip", "link", "set", port, "master", BRIDGE, "up")
        for what in (("link", "set", "lo", "up"), ("address", "add", f"{ip}/16", "dev", "eth0"), ("link", "set", "eth0", "up")):
            _call("ip", "-n", name, *what)
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return ["nsenter", f"--net=/run/netns/{name}", *namespaces, "sh", "-c", INSIDE, "node"]

    def lose(self, one: str, other: str) -> None:
        """Lose all packets between two nodes, given by address, from now on: nobody is told."""
        for here, there in ((one, other), (other, one)):
            _call("ip", "-n", self.names[here], "neigh", "replace", there, "lladdr", NOWHERE, "dev", "eth0", "nud", "permanent")
            self.cut.add((here, there))

    def mend(self) -> None:
        """Deliver packets again."""
        for here, there in self.cut:
            _call("ip", "-n", self.names[here], "neigh", "del", there, "dev", "eth0")
        self.cut.clear()

    def close(self) -> None:
        _remove_unused()


def _remove_unused() -> None:
    """Remove all namespaces and links. Raises PermissionError if a test is at work in them."""
    names = [line.split()[0] for line in _call("ip", "netns", "list").splitlines() if line.startswith("foundray-")]
    if any(_call("ip", "netns", "pids", name) for name in names):
        raise PermissionError("another test uses its namespaces now")
    _delete(*names)
    for link in json.loads(_call("ip", "-json", "link")):
        if link["ifname"] == BRIDGE or link.get("master") == BRIDGE:
            _delete(link["ifname"])


def _delete(*names: str) -> None:
    """Delete namespaces and links that are there; a link goes with its namespace, some time after the last process in it."""
    for name in names:
        for kind in ("netns", "link"):
            subprocess.run(["ip", kind, "delete", name], capture_output=True)


def _call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise PermissionError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
