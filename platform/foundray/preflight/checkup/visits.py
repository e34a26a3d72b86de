"""Visits: each asks all nodes a question, and stores the answers on the `Node` objects."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from foundray.data.files.files import RawFile
from foundray.errors import InputError
from foundray.preflight.checkup import product
from foundray.preflight.checkup.nodes import Link, Node
from foundray.preflight.checkup.probes import Probes, disjoint
from foundray.storage import Store

ANSWER_SECONDS = 15.0
PRODUCT_SECONDS = 90.0
"""Mostly torch's import, from a disk that may be slow, and CUDA's start."""
ALL_PAIRS = 6
"""Most nodes among which every pair is tested; beyond, each node is tested with the next."""
FILES = 200
"""Most files checked per source, evenly spread."""


def visit_facts(probes: Probes, seconds: float) -> None:
    for node, facts in probes.ask_all("facts", seconds=seconds).items():
        node.facts = facts
    for node in probes.nodes:
        node.skew = probes.skew(node, ANSWER_SECONDS)


def visit_storage(probes: Probes, url: str, seconds: float = ANSWER_SECONDS) -> None:
    """Let every node read a file of the driver there, and the driver a file of every node. Raises InputError."""
    root = Store.at(url)
    was_there = root.exists()
    root.check_writable()
    folder = root / f".foundray-check-{secrets.token_hex(4)}"
    content = secrets.token_bytes(32)
    replies = {node: secrets.token_bytes(32) for node in probes.nodes}
    try:
        (folder / "driver").write_bytes(content)
        asked = {node: (folder.url, content, node.id, reply) for node, reply in replies.items()}
        for node, (state, why) in probes.ask("exchange", asked, seconds).items():
            seen = state != "fine" or _holds(folder / node.id, replies[node])
            node.storage = (state, why) if seen else ("apart", "")
    finally:
        folder.delete_folder()
        if not was_there and not root.children():
            root.delete_folder()


def _holds(file: Store, content: bytes) -> bool:
    try:
        return file.read_bytes() == content
    except InputError:
        return False


def visit_sources(probes: Probes, sources: Mapping[str, Sequence[RawFile]], seconds: float = ANSWER_SECONDS) -> None:
    """Ask every node whether it sees the files of each source, in the sizes that the driver sees."""
    for path, files in sources.items():
        some = files[:: -(-len(files) // FILES)]
        for node, missing in probes.ask_all("missing", {file.url: file.size for file in some}, seconds=seconds).items():
            node.missing[path] = missing


def visit_links(probes: Probes) -> list[Link]:
    """Measure raw TCP streams between nodes, as gradients travel."""
    nodes = probes.nodes
    pairs = (
        list(itertools.combinations(nodes, 2))
        if len(nodes) <= ALL_PAIRS
        else list(zip(nodes, nodes[1:] + nodes[:1], strict=True))
    )
    found = []
    # A node takes part in one stream at a time, or streams would share its bandwidth.
    for some in disjoint(pairs):
        secret = secrets.token_bytes(16)
        ports = probes.ask("listen", {target: (target.address, secret) for _, target in some}, ANSWER_SECONDS)
        target_of = {source: target for source, target in some if target in ports}
        streams = {source: (target.address, ports[target], secret) for source, target in target_of.items()}
        for source, answer in probes.ask("stream", streams, ANSWER_SECONDS).items():
            if isinstance(answer, str):
                found.append(Link(source, target_of[source], problem=answer))
            else:
                found.append(Link(source, target_of[source], answer["latency"], answer["bandwidth"]))
    return found


def visit_products(probes: Probes) -> None:
    """Time a matrix product on the devices of each node; nodes of one machine take turns."""
    program = Path(product.__file__).read_text()
    machines: dict[str, list[Node]] = {}
    for node in probes.nodes:
        if node.facts and (node.cpus >= 1 or node.gpus):
            machines.setdefault(node.facts["machine"], []).append(node)
    for turn in itertools.zip_longest(*machines.values()):
        asked = {node: (program, int(node.cpus), int(node.gpus), PRODUCT_SECONDS) for node in turn if node}
        for node, found in probes.ask("products", asked, PRODUCT_SECONDS + ANSWER_SECONDS).items():
            node.products = found
