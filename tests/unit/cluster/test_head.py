"""Addresses that are not a Ray cluster's head: each gives one sentence, soon."""

from __future__ import annotations

import http.server
import socket
import threading

import pytest

from foundray.cluster import head
from foundray.errors import InputError


def refusal(address: str) -> str:
    with pytest.raises(InputError) as error:
        head.ask_head(address)
    return str(error.value)


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(head, "ANSWER_SECONDS", 1.0)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nobody.invalid:6379", "there is no host nobody.invalid"),
        ("head", "write HOST:PORT"),
        ("host:port", "write HOST:PORT"),
        ("127.0.0.1:99999", "write HOST:PORT"),
        ("http://127.0.0.1:8265", "write HOST:PORT"),
        ("ray://127.0.0.1:10001", "hand the run over with `foundray submit`"),
    ],
)
def test_invalid_addresses(address: str, said: str) -> None:
    assert said in refusal(address)


def test_nothing_listens() -> None:
    with socket.create_server(("", 0)) as closed:
        port = closed.getsockname()[1]
    assert "(connection refused): correct RAY_ADDRESS" in refusal(f"127.0.0.1:{port}")


def test_something_listens_and_says_nothing() -> None:
    with socket.create_server(("", 0)) as silent:
        assert f"RAY_ADDRESS=127.0.0.1:{silent.getsockname()[1]}" in refusal(f"127.0.0.1:{silent.getsockname()[1]}")


def test_something_else_answers() -> None:
    with http.server.ThreadingHTTPServer(("", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert "is not the head of a Ray cluster" in refusal(f"127.0.0.1:{server.server_port}")
        server.shutdown()
