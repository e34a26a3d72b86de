"""How a node is started: by a `ray start` with an address, resources and environment variables of its own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from foundray.cluster.local.node import agent_port, node_ip
from foundray.host.machine import PASSIVE

NODE_IP = "FOUNDRAY_NODE_IP"
"""Environment variable with the node's address, for the node's processes."""
OBJECT_STORE = 100_000_000
"""Shared memory per node, in bytes."""
# These notice a dead node after about two seconds; Ray's defaults are meant for busy networks.
HEALTH_CHECKS = {
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "1000",
}

RAY = str(Path(sys.executable).with_name("ray"))
"""Ray's program, of this Python's environment."""


def command(network: int, number: int, name: str, resources: Mapping[str, float]) -> list[str]:
    """Command of the node `number` of a cluster's network; arguments for its place in the cluster are to be added."""
    others = {kind: amount for kind, amount in resources.items() if kind not in ("CPU", "GPU", "memory")}
    return [
        RAY,
        "start",
        "--block",
        "--disable-usage-stats",
        f"--node-ip-address={node_ip(network, number)}",
        f"--node-name={name}",
        f"--dashboard-agent-listen-port={agent_port(network, number)}",
        f"--num-cpus={resources.get('CPU', 0):g}",
        f"--num-gpus={resources.get('GPU', 0):g}",
        f"--resources={json.dumps(others)}",
        f"--object-store-memory={OBJECT_STORE}",
        *([f"--memory={resources['memory']:.0f}"] if "memory" in resources else []),
    ]


def environment(ip: str, folder: Path) -> dict[str, str]:
    """Environment variables of a node's processes: jobs run this Python, and their drivers join their own node."""
    inherited = {**PASSIVE, **{k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}}
    path = os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)])
    return {**inherited, NODE_IP: ip, "PATH": path, **HEALTH_CHECKS, **token_environment(folder)}


def token_environment(folder: Path) -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
