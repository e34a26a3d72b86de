"""From observations of the nodes to findings: what is wrong, where, and what would be right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from typing import Any

from foundray.contract import MODALITIES, OBJECTIVES
from foundray.preflight.checkup.nodes import Finding, Link, Node, named
from foundray.preflight.checkup.probe import shown
from foundray.spec import Spec

SKEW_SECONDS = 1.0
"""Largest clock difference with which logs of several nodes can still be read together."""
SLOW = 0.8
"""An accelerator below this share of the median of its kind is reported."""
SLOW_LINK = 0.5
FULL_DISK = 0.95
"""Above this share Ray puts no more objects on a disk (`RAY_local_fs_capacity_threshold`)."""
TAKEN_MEMORY, CONTEXT_BYTES = 0.1, 2**30
"""A GPU with more of its memory taken, CUDA's own share aside, is in use."""


def judged(
    nodes: Sequence[Node], found: Sequence[Link], here: dict[str, Any], url: str | None, spec: Spec | None
) -> list[Finding]:
    """All findings, those that stop a run first; `here` are the driver's facts, `url` is storage."""
    findings = [
        *silent(nodes),
        *versions(nodes, here),
        *(parts(nodes, spec.objective.kind, spec.data.modality.kind) if spec else ()),
        *(storage(nodes, url) if url is not None else ()),
        *sources(nodes),
        *links(found),
        *products(nodes),
        *clocks(nodes),
        *space(nodes),
        *busy(nodes),
    ]
    return sorted(findings, key=lambda finding: not finding.stops)


def silent(nodes: Sequence[Node]) -> Iterator[Finding]:
    for why, where in _by((node, node.silence) for node in nodes if node.silence):
        _, does, _ = _verbs(where)
        yield Finding(True, f"{named(where)} {does} not answer: {why}; repair it, or remove it from the cluster")


def versions(nodes: Sequence[Node], here: dict[str, Any]) -> Iterator[Finding]:
    """Compare versions with the driver's, whose facts are `here`."""
    visited = [node for node in nodes if node.facts]
    without = [node for node in visited if not _facts(node)["foundray"]]
    if without:
        yield Finding(True, f"{named(without)}: foundray cannot be imported there; install the version of this machine")
    for version, where in _by((n, _facts(n)["foundray"]) for n in visited if n not in without):
        if version != here["foundray"]:
            yield Finding(
                True,
                f"{named(where)}: foundray {version} is installed there and {here['foundray']} here (version and digest of its "
                "files), and all workers of a run need the same; install one version on every node",
            )
    for package in here["packages"]:
        for version, where in _by((node, _facts(node)["packages"][package]) for node in visited):
            yield from _package(package, version, where, here["packages"][package])
    for version, where in _by((node, _facts(node)["python"]) for node in visited):
        if version != here["python"]:
            yield Finding(
                True, f"{named(where)}: Python {version} there and {here['python']} here; Ray needs one version on all nodes"
            )
    drivers = _by((node, _facts(node)["driver"]) for node in visited if node.gpus)
    if len(drivers) > 1:
        found = "; ".join(f"{version or 'none'} on {named(where)}" for version, where in drivers)
        yield Finding(False, f"NVIDIA's driver differs between nodes: {found}; GPUs may round differently")


def _package(package: str, version: str | None, where: list[Node], here: str | None) -> Iterator[Finding]:
    if version == here:
        return
    if version is None:
        yield Finding(True, f"{named(where)}: {package} is not installed there; install {package}=={here}")
    else:
        yield Finding(
            package == "ray",
            f"{named(where)}: {package} {version} there and {here or 'none'} here; a run's result may depend on which "
            "workers take part: install the same on every node",
        )


def parts(nodes: Sequence[Node], objective: str, modality: str) -> Iterator[Finding]:
    """Check for the spec's objective and modality, which are found by entry point."""
    for what, group, name in (("objective", OBJECTIVES, objective), ("modality", MODALITIES, modality)):
        without = [node for node in nodes if node.facts and name not in node.facts["installed"][group]]
        if without:
            yield Finding(True, f"{named(without)}: the {what} {name} is not installed there; install its package")


def clocks(nodes: Sequence[Node]) -> Iterator[Finding]:
    for node in nodes:
        if node.skew and abs(node.skew[0]) - node.skew[1] > SKEW_SECONDS:
            ahead = "ahead of" if node.skew[0] > 0 else "behind"
            yield Finding(
                False,
                f"{named([node])}: its clock is {abs(node.skew[0]):.1f} s {ahead} the driver's (± {node.skew[1]:.3f} s); a run "
                "compares no clocks, but logs and access keys do: use NTP",
            )


def storage(nodes: Sequence[Node], url: str) -> Iterator[Finding]:
    place = f"storage {shown(url)}"
    shared = (
        "mount one shared file system at that path on every node, or set storage to a URL that all reach (s3://bucket/runs)"
    )
    for stops, some in _by_work(node for node in nodes if node.storage):
        for (state, why), where in _by((node, node.storage) for node in some):
            _, does, has = _verbs(where)
            reason = f" ({why})" if why else ""
            if state == "apart" and why:
                yield Finding(stops, f"{place}: {why} on {named(where)}, where a run would be written too; {shared}")
            elif state == "apart":
                own = "a folder of its own" if len(where) == 1 else "folders of their own"
                yield Finding(
                    stops, f"{place}: {named(where)} {does} not see what the driver writes there, but {has} {own}; {shared}"
                )
            elif state in ("unreadable", "unwritable"):
                verb = "read" if state == "unreadable" else "write"
                yield Finding(
                    stops, f"{place}: {named(where)} cannot {verb} there{reason}; give every node the driver's rights"
                )
            elif state == "unknown" and not any(node.facts for node in where):  # with facts, `versions` reports it
                yield Finding(
                    stops, f"{named(where)}: foundray cannot be imported there{reason}; install the version of this machine"
                )


def sources(nodes: Sequence[Node]) -> Iterator[Finding]:
    paths = dict.fromkeys(path for node in nodes for path in node.missing)
    for path in paths:
        for stops, some in _by_work(node for node in nodes if node.missing.get(path, (0, ""))[0]):
            for (count, first), where in _by((node, node.missing[path]) for node in some):
                more = f" ({count - 1:,} more after this one)" if count > 1 else ""
                yield Finding(
                    stops,
                    f"the source {shown(path)}: {first} on {named(where)}{more}; put the data where every node reaches it, at "
                    "the same path",
                )


def links(found: Sequence[Link]) -> Iterator[Finding]:
    for link in found:
        if link.problem:
            yield Finding(
                link.source.works and link.target.works,
                f"{named([link.source])} does not reach {link.target} by TCP ({link.problem}), and workers exchange gradients "
                "on any free port: let the nodes of the cluster reach each other on all ports",
            )
    usual = median([link.bandwidth for link in found if not link.problem] or [0])
    for link in found:
        if not link.problem and link.bandwidth < SLOW_LINK * usual:
            yield Finding(
                False,
                f"from {named([link.source])} to {link.target} go {link.bandwidth / 1e9:.2g} GB/s, where {usual / 1e9:.2g} is "
                "usual in this cluster; a group is as fast as its slowest link",
            )


def products(nodes: Sequence[Node]) -> Iterator[Finding]:
    for node in nodes:
        found = node.products
        if problem := found.get("problem"):
            yield Finding(True, f"{named([node])}: torch cannot compute there: {problem}")
        elif found and len(found["devices"]) < node.gpus:
            yield Finding(
                True,
                f"{named([node])}: Ray counts {node.gpus:g} GPU{'s' * (node.gpus != 1)} there, and torch sees "
                f"{len(found['devices'])}; install a torch that fits the driver, or start the node with the right --num-gpus",
            )
    kinds: dict[str, list[tuple[Node, dict[str, Any]]]] = {}
    for node in nodes:
        for device in node.products.get("devices", ()):
            if "tflops" in device:
                kinds.setdefault(device["kind"], []).append((node, device))
            else:
                yield Finding(not node.in_use, f"{named([node])}: {device['device']} cannot compute: {device['problem']}")
    for kind, devices in kinds.items():
        usual = median(device["tflops"] for _, device in devices)
        for node, device in devices:
            if device["tflops"] < SLOW * usual:
                busy = (
                    "; it is in use, so check again when it is idle"
                    if at_work(node, device)
                    else "; check for other work, heat or a broken fan"
                )
                yield Finding(
                    False,
                    f"{named([node])}: {device['device']} gives {device['tflops']:.3g} TFLOP/s, {device['tflops'] / usual:.0%} "
                    f"of what is usual for {kind} here{busy}",
                )


def at_work(node: Node, device: dict[str, Any] | None = None) -> bool:
    """Whether a node is busy: its resources are held in Ray, or memory of its GPU is taken."""
    devices = node.products.get("devices", []) if device is None else [device]
    return bool(node.in_use) or any(_taken(device) for device in devices)


def _taken(device: dict[str, Any]) -> bool:
    memory, free = device.get("memory", 0), device.get("memory_free", 0)
    return memory - free > max(TAKEN_MEMORY * memory, CONTEXT_BYTES)


def busy(nodes: Sequence[Node]) -> Iterator[Finding]:
    if where := [node for node in nodes if at_work(node)]:
        yield Finding(False, f"{named(where)} {_verbs(where)[0]} in use: speeds there are those of a busy node")


def space(nodes: Sequence[Node]) -> Iterator[Finding]:
    for node in nodes:
        if facts := node.facts:
            if facts["disk_free"] < (1 - FULL_DISK) * facts["disk_total"]:
                yield Finding(
                    False,
                    f"{named([node])}: the disk of its temporary folder has {facts['disk_free'] / 1e9:.1f} GB left, and above "
                    f"{FULL_DISK:.0%} Ray puts no objects there; make room",
                )
            if facts["shm_total"] is not None and facts["shm_total"] < node.object_store:
                yield Finding(
                    False,
                    f"{named([node])}: /dev/shm has {facts['shm_total'] / 1e9:.2g} GB, less than Ray's object store of "
                    f"{node.object_store / 1e9:.2g} GB, which then goes to disk; enlarge it (docker run --shm-size)",
                )


def _facts(node: Node) -> dict[str, Any]:
    assert node.facts is not None
    return node.facts


def _by(pairs: Iterable[tuple[Node, Any]]) -> list[tuple[Any, list[Node]]]:
    """Group nodes by value."""
    groups: dict[Any, list[Node]] = {}
    for node, value in pairs:
        groups.setdefault(value, []).append(node)
    return list(groups.items())


def _by_work(nodes: Iterable[Node]) -> list[tuple[bool, list[Node]]]:
    """Group nodes by whether a run may use them: a problem elsewhere stops no run."""
    return _by((node, node.works) for node in nodes)


def _verbs(nodes: Sequence[Node]) -> tuple[str, str, str]:
    return ("is", "does", "has") if len(nodes) == 1 else ("are", "do", "have")
