"""Readable names of a cluster's nodes, and the loss of its head."""

from __future__ import annotations

import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from foundray.cluster import connect as cluster
from foundray.cluster.connect import names_of
from foundray.wording.sentences import sentence


def node(number: int, name: str = "", host: str = "", alive: bool = True) -> dict[str, Any]:
    ip = f"10.0.0.{number}"
    return {
        "NodeID": f"{number:056x}"[::-1], "NodeName": name or ip, "NodeManagerAddress": ip, "NodeManagerHostname": host,
        "Alive": alive,
    }  # fmt: skip


def test_a_node_has_the_name_that_it_was_given_or_its_hosts_or_some_digits() -> None:
    nodes = [node(1, "node-1", "vm"), node(2, host="gpu-7"), node(3, host="vm"), node(4, host="gpu-7", alive=False), node(5)]
    assert list(names_of(nodes).values()) == ["node-1", "gpu-7", "30000000", "gpu-7", "50000000"]


def test_ids_in_earlier_records_are_shortened_and_names_are_not() -> None:
    def said(node: str) -> str:
        return sentence({"event": "left_out", "node": node, "reason": "it computed different bits from the others"})

    name = "a-host-with-quite-a-long-name-on-premises.example"
    assert said(name).startswith(f"the node {name} is left out")
    assert said("ab" * 28).startswith("the node abababab is left out")
    assert said(f"{'ab' * 28}, {'0c' * 28}").startswith("the node abababab, 0c0c0c0c is left out")
    lost = {"event": "member_lost", "member": 3, "node": "node-2", "reason": "its node is draining"}
    assert sentence(lost) == "worker 3 on node node-2 is lost: its node is draining"


def test_the_innermost_watcher_is_called_when_the_head_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "HEAD_BEAT_SECONDS", 0.05)
    monkeypatch.setattr(cluster, "HEAD_SECONDS", 0.5)
    called, done = list[str](), threading.Event()

    def by(name: str) -> None:
        called.append(name)
        done.set()

    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(gcs_address=address))
        with cluster.head_watched(lambda: by("outer")):
            with cluster.head_watched(lambda: by("inner")):
                assert not done.wait(1.0), "it is there"
                head.close()
                assert done.wait(10)
            assert called == ["inner"]
    done.clear()
    with cluster.head_watched(lambda: by("the only one")):
        assert done.wait(10)
    assert called == ["inner", "the only one"]
