"""Judgements about nodes: pure functions, on made-up nodes."""

from __future__ import annotations

import json
import secrets
import socket
from pathlib import Path
from typing import Any

import pytest

from foundray.contract import MODALITIES, OBJECTIVES
from foundray.preflight.checkup import judgement, product
from foundray.preflight.checkup.nodes import Finding, Link, Node, named
from foundray.preflight.checkup.probe import Probe, shown
from foundray.preflight.checkup.probes import disjoint
from foundray.preflight.checkup.report import Checkup

HERE: dict[str, Any] = {
    "machine": "m", "python": "3.12.1", "foundray": "0.1.0+aaaa", "driver": None, "disk_free": 50e9, "disk_total": 100e9,
    "shm_total": 8e9, "packages": {"ray": "2.60.0", "torch": "2.9.0", "bitsandbytes": "0.50.0"},
    "installed": {OBJECTIVES: ["next_token"], MODALITIES: ["text"]},
}  # fmt: skip


def node(number: int, **changes: Any) -> Node:
    facts = {**HERE, **{k: v for k, v in changes.items() if k in HERE}}
    rest = {k: v for k, v in changes.items() if k not in HERE}
    return Node(**{"id": f"id-{number}", "address": f"10.0.0.{number}", "cpus": 4, "facts": facts, **rest})


def fast(tflops: float, kind: str = "H100", **more: Any) -> dict[str, Any]:
    return {"devices": [{"device": "cuda:0", "kind": kind, "dtype": "bf16", "tflops": tflops, **more}]}


def judged(nodes: list[Node], links: list[Link] | None = None) -> list[Finding]:
    return judgement.judged(nodes, links or [], HERE, "/runs", None)


def only(findings: list[Finding], stops: bool) -> str:
    assert [finding.stops for finding in findings] == [stops], findings
    return findings[0].sentence


def test_nodes_that_are_alike_are_fine() -> None:
    assert judged([node(1, storage=("fine", ""), here=True), node(2, storage=("fine", ""), skew=(0.9, 0.01))]) == []


def test_a_node_that_is_silent() -> None:
    said = only(judged([node(1), node(2, facts=None, silence="no answer within 30 s")]), stops=True)
    assert said.startswith("node 10.0.0.2 does not answer: no answer within 30 s")


def test_versions_that_differ() -> None:
    said = only(judged([node(1), node(2, foundray="0.1.0+bbbb"), node(3, foundray="0.1.0+bbbb")]), stops=True)
    assert said.startswith("nodes 10.0.0.2 and 10.0.0.3: foundray 0.1.0+bbbb is installed there and 0.1.0+aaaa here")
    assert "cannot be imported" in only(judged([node(1), node(2, foundray=None)]), stops=True)
    assert "torch 2.10.0 there and 2.9.0" in only(
        judged([node(1), node(2, packages={**HERE["packages"], "torch": "2.10.0"})]), stops=False
    )
    assert "torch is not installed there; install torch==2.9.0" in only(
        judged([node(1), node(2, packages={**HERE["packages"], "torch": None})]), stops=True
    )
    assert "580.1 on node 10.0.0.1; 570.2 on node" in only(
        judged([node(1, gpus=1, driver="580.1"), node(2, gpus=1, driver="570.2"), node(3)]), stops=False
    )


def test_an_objective_that_a_node_lacks() -> None:
    without = node(2, installed={OBJECTIVES: [], MODALITIES: ["text"]})
    assert "node 10.0.0.2: the objective next_token is not" in only(
        list(judgement.parts([node(1), without], "next_token", "text")), True
    )


def test_a_clock_is_reported_only_beyond_the_uncertainty() -> None:
    assert "2.5 s behind the driver's" in only(judged([node(1, skew=(-2.5, 0.01))]), stops=False)
    assert judged([node(1, skew=(2.5, 2.0))]) == []
    table = Checkup([node(1, skew=(0.25, 0.01)), node(2, skew=(0.125, 0.2))], [], None, []).table()
    assert "+0.250 s" in table and "0.125" not in table


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        (("apart", ""), "does not see what the driver writes there, but has a folder of its own; mount one shared"),
        (("apart", "there is no such folder"), "storage /runs: there is no such folder on node 10.0.0.2"),
        (("unwritable", "Permission denied"), "node 10.0.0.2 cannot write there (Permission denied)"),
        (("unreadable", "Permission denied"), "node 10.0.0.2 cannot read there (Permission denied)"),
    ],
)
def test_storage_that_a_node_does_not_reach(storage: tuple[str, str], said: str) -> None:
    assert said in only(judged([node(1, storage=("fine", "")), node(2, storage=storage)]), stops=True)
    # Nothing of a run is placed on a head without CPUs, unless the driver is there.
    assert said in only(judged([node(1, storage=("fine", "")), node(2, storage=storage, cpus=0)]), stops=False)
    assert said in only(judged([node(2, storage=storage, cpus=0, here=True)]), stops=True)


def test_sources_that_a_node_lacks() -> None:
    lacks = [node(n, missing={"data/*.txt": (3, "/data/a.txt is not there")}) for n in (2, 3)]
    said = only(judged([node(1, missing={"data/*.txt": (0, "")}), *lacks]), stops=True)
    assert said.startswith("the source data/*.txt: /data/a.txt is not there on nodes 10.0.0.2 and 10.0.0.3 (2 more after")


def test_devices_much_slower_than_others_of_their_kind() -> None:
    nodes = [node(n, gpus=1, products=fast(700)) for n in (1, 2)] + [node(4, gpus=1, products=fast(60, "T4"))]
    assert judged([*nodes, node(3, gpus=1, products=fast(570))]) == []
    slow = node(3, gpus=1, products=fast(350))
    assert "node 10.0.0.3: cuda:0 gives 350 TFLOP/s, 50% of what is usual for H100" in only(judged([*nodes, slow]), stops=False)
    slow.in_use = {"GPU": 1.0}
    assert {f.sentence.rpartition("; ")[2] for f in judged([*nodes, slow])} == {
        "it is in use, so check again when it is idle", "node 10.0.0.3 is in use: speeds there are those of a busy node",
    }  # fmt: skip
    full = node(3, gpus=1, products=fast(700, memory=80e9, memory_free=30e9))
    assert "in use" in only(judged([*nodes, full]), stops=False)


def test_devices_that_do_not_compute() -> None:
    said = only(judged([node(1, gpus=2, products=fast(700))]), stops=True)
    assert "Ray counts 2 GPUs there, and torch sees 1" in said
    assert "No module named 'torch'" in only(judged([node(1, products={"problem": "No module named 'torch'"})]), stops=True)
    broken = {"devices": [{"device": "cuda:0", "kind": "H100", "problem": "out of memory"}]}
    assert "cuda:0 cannot compute: out of memory" in only(judged([node(1, gpus=1, products=broken)]), stops=True)


def test_slow_links_are_reported() -> None:
    a, b, c = (node(n) for n in (1, 2, 3))
    quick = [Link(a, b, 1e-4, 1.2e9), Link(a, c, 1e-4, 1.1e9)]
    assert judged([a, b, c], [*quick, Link(b, c, 1e-4, 0.9e9)]) == []
    assert "from node 10.0.0.2 to 10.0.0.3 go 0.2 GB/s, where 1.1 is usual" in only(
        judged([a, b, c], [*quick, Link(b, c, 1e-4, 0.2e9)]), stops=False
    )
    assert "node 10.0.0.2 does not reach 10.0.0.3 by TCP (timed out)" in only(
        judged([a, b, c], [*quick, Link(b, c, problem="timed out")]), stops=True
    )


def test_little_disk_space_is_reported() -> None:
    assert "has 2.0 GB left" in only(judged([node(1, disk_free=2e9)]), stops=False)
    assert "/dev/shm has 0.067 GB, less than Ray's object store of 2 GB" in only(
        judged([node(1, shm_total=67e6, object_store=2e9)]), stops=False
    )


def test_rounds_of_pairs_are_disjoint_and_complete() -> None:
    nodes = [node(n) for n in range(7)]
    pairs = list(zip(nodes, nodes[1:] + nodes[:1], strict=True))
    rounds = disjoint(pairs)
    assert sorted(map(id, (n for some in rounds for n in some[0]))) and sum(map(len, rounds)) == len(pairs)
    assert all(len({n for pair in some for n in pair}) == 2 * len(some) for some in rounds)
    assert len(rounds) == 3


def test_nodes_have_readable_names() -> None:
    assert named([node(n) for n in range(1, 7)]) == "nodes 10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4 and 2 more"
    assert named([Node("x", "10.0.0.1", "gpu-1")]) == "node 10.0.0.1 (gpu-1)"
    assert shown("s3://key:secret@bucket/runs?session=1") == "s3://…@bucket/runs"


def test_as_an_object() -> None:
    a, b = node(1, products=fast(700)), node(2)
    checkup = Checkup([a, b], [Link(a, b, 1e-4, 1e9)], "/runs", judged([a, b]))
    facts = json.loads(json.dumps(checkup.to_dict()))
    assert (
        facts["fine"] and facts["links"][0]["target"] == "id-2" and facts["nodes"][0]["products"]["devices"][0]["tflops"] == 700
    )


def test_a_probe_streams_to_another() -> None:
    secret = secrets.token_bytes(16)
    found = Probe().stream("127.0.0.1", Probe().listen("127.0.0.1", secret), secret)
    assert isinstance(found, dict) and 0 < found["latency"] < 1 and found["bandwidth"] > 1e6
    assert isinstance(Probe().stream("127.0.0.1", Probe().listen("127.0.0.1", secret), b"x" * 16), str)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert Probe().stream("127.0.0.1", port, secret) == "Connection refused"


def test_a_probe_multiplies_in_a_process_of_its_own() -> None:
    program = Path(product.__file__).read_text()
    found = Probe().products(program, 1, 0, 60)
    assert 0 < found["devices"][0]["tflops"] < 100 and "1 thread" in found["devices"][0]["kind"]
    assert "took longer" in Probe().products("import time; time.sleep(9)", 1, 0, 0.2)["problem"]
    assert Probe().products("raise ImportError('no torch')", 1, 0, 9)["problem"] == "ImportError: no torch"


def test_a_probe_distinguishes_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("four")
    right, wrong, none = {str(tmp_path / "a.txt"): 4}, {str(tmp_path / "a.txt"): 5}, {str(tmp_path / "b.txt"): 4}
    assert Probe().missing(right) == (0, "")
    assert "has 4 bytes there instead of 5" in Probe().missing(wrong)[1]
    assert Probe().missing({**wrong, **none})[0] == 2
