"""The result of a checkup: as tables for people, as an object for programs."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from foundray.preflight.checkup.judgement import at_work
from foundray.preflight.checkup.nodes import Finding, Link, Node
from foundray.preflight.checkup.probe import shown
from foundray.wording.words import size

LINKS_SHOWN = 12
"""Links in the table, the slowest; programs get all."""


@dataclass(frozen=True)
class Checkup:
    nodes: Sequence[Node]
    links: Sequence[Link]
    storage: str | None
    findings: Sequence[Finding]

    @property
    def fine(self) -> bool:
        """Whether nothing stops a run; there may be warnings."""
        return not any(finding.stops for finding in self.findings)

    def table(self) -> str:
        """Nodes, links, and a line per finding."""
        from rich.console import Console

        text = io.StringIO()
        console = Console(file=text, width=max(100, shutil.get_terminal_size((140, 24)).columns))
        console.print(self._node_table())
        if self.links:
            console.print(self._link_table())
        lines = [f"{'to mend' if f.stops else 'warning'}: {f.sentence}" for f in self.findings]
        return text.getvalue() + "\n".join(lines or ["nothing to mend"])

    def _node_table(self) -> Any:
        from rich.table import Table

        heads = (
            "node",
            "CPUs",
            "GPUs",
            "memory",
            "/dev/shm",
            "disk free",
            "foundray",
            "torch",
            "clock",
            "storage",
            "TFLOP/s",
            "",
        )
        table = Table(*heads, box=None)
        for node in self.nodes:
            table.add_row(*_cells(node))
        return table

    def _link_table(self) -> Any:
        from rich.table import Table

        table = Table("from", "to", "GB/s", "round trip", box=None)
        for link in sorted(self.links, key=lambda link: link.bandwidth)[:LINKS_SHOWN]:
            cells = (link.problem, "") if link.problem else (f"{link.bandwidth / 1e9:.2f}", f"{link.latency * 1e6:.0f} µs")
            table.add_row(str(link.source), str(link.target), *cells)
        return table

    def to_dict(self) -> dict[str, Any]:
        return {
            "fine": self.fine,
            "storage": shown(self.storage) if self.storage else None,
            "nodes": [{**asdict(node), "at_work": at_work(node)} for node in self.nodes],
            "links": [
                {
                    "source": link.source.id,
                    "target": link.target.id,
                    "latency": link.latency,
                    "bandwidth": link.bandwidth,
                    "problem": link.problem,
                }
                for link in self.links
            ],
            "findings": [asdict(finding) for finding in self.findings],
        }


def _cells(node: Node) -> list[str]:
    head = [str(node), f"{node.cpus:g}", _gpus(node), size(node.memory)]
    if node.facts is None:
        return [*head, *[""] * 7, "no answer"]
    facts, devices = node.facts, node.products.get("devices", [])
    return [
        *head,
        size(facts["shm_total"] or 0),
        size(facts["disk_free"]),
        facts["foundray"] or "none",
        facts["packages"]["torch"] or "none",
        _clock(node.skew),
        "" if node.storage is None else node.storage[0],
        ", ".join(f"{device['tflops']:.3g}" if "tflops" in device else "none" for device in devices),
        "at work" if at_work(node) else "driver" if node.here else "",
    ]


def _gpus(node: Node) -> str:
    return f"{node.gpus:g} {node.accelerator or ''}".strip() if node.gpus else ""


def _clock(skew: tuple[float, float] | None) -> str:
    """The difference from the driver's clock; empty if it is within the error of measurement."""
    return f"{skew[0]:+.3f} s" if skew and abs(skew[0]) > skew[1] else ""
