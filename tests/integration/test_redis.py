"""The Redis of the KubeRay manifests, started by its container's own command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.integration.hosts import NAMESPACES, why_not
from tests.repository import REPOSITORY


def test_redis_asks_for_the_password_of_the_secret_and_shows_it_to_nobody(tmp_path: Path) -> None:
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")
    if why := why_not():
        pytest.skip(why)  # it would share this machine's port
    manifests = yaml.safe_load_all((REPOSITORY / "clusters" / "kuberay" / "redis.yaml").read_text())
    (stateful,) = [manifest for manifest in manifests if manifest["kind"] == "StatefulSet"]
    shell, option, command = stateful["spec"]["template"]["spec"]["containers"][0]["command"]
    (tmp_path / "redis").write_text(command.replace("/data", str(tmp_path)))
    script = f"""
        ip link set lo up
        {shell} {option} "$(cat {tmp_path}/redis)" > {tmp_path}/log &
        until redis-cli ping > /dev/null; do sleep 0.05; done
        redis-cli ping
        REDISCLI_AUTH=a-password redis-cli set kept 1
        tr '\\0' ' ' < /proc/$!/cmdline
    """
    environment = {"REDIS_PASSWORD": "a-password", "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
    done = subprocess.run([*NAMESPACES, "bash", "-c", script], env=environment, capture_output=True, text=True, timeout=30)
    refused, kept, seen = (line for line in done.stdout.splitlines() if line)
    assert (refused, kept) == ("NOAUTH Authentication required.", "OK"), done.stderr
    assert "redis-server" in seen and "a-password" not in seen
    assert list((tmp_path / "appendonlydir").iterdir())  # what is kept is on disk
