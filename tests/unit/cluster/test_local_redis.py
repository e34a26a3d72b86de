"""A local cluster's Redis accepts clients with its key, and no command line contains a secret."""

from __future__ import annotations

import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from foundray.cluster.local.redis import CERTIFICATE, KEY, Redis
from foundray.errors import InputError


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    if not all(map(shutil.which, ("redis-server", "redis-cli", "openssl"))):
        pytest.skip("redis-server, redis-cli or openssl is not installed")
    started = Redis.start(tmp_path, "127.0.0.1")
    yield started
    started.node.kill()


def asked(redis: Redis, *certificate: str) -> str:
    """Redis's answer to a ping."""
    _, host, port = redis.environment["RAY_REDIS_ADDRESS"].split(":")
    command = ["redis-cli", "-h", host.removeprefix("//"), "-p", port, *certificate, "ping"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    return done.stdout + done.stderr


def test_redis_answers_clients_that_have_the_key(redis: Redis) -> None:
    authority = ("--tls", "--cacert", str(redis.folder / CERTIFICATE))
    mine = ("--cert", str(redis.folder / CERTIFICATE), "--key", str(redis.folder / KEY))
    assert asked(redis, *authority, *mine) == "PONG\n"
    assert "PONG" not in asked(redis, *authority)
    assert "PONG" not in asked(redis)
    assert stat.S_IMODE((redis.folder / KEY).stat().st_mode) == 0o600


def test_an_unavailable_redis_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="redis-server is not installed; Debian's package redis-server has it"):
        Redis.start(tmp_path, "127.0.0.1")
