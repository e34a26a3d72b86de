"""A forecast of goodput at 1,000 nodes with a failure every 10 minutes: `make bench-goodput`.

Goodput is the share of the time of all nodes that were there that was spent on steps that count. The elastic system is the
real protocol in simulated time, with a shell of its own that answers its decisions at the costs in `goodput/costs.py`. Beside
it, under the same trace of failures, are models of restarts from a checkpoint and of replica groups, and the elastic system
with joiners that wait for the next break unless they are worth a pause, which the protocol does not do. Nothing here is
measured on a cluster: the table of assumptions says where each number is from.

`--trace FILE` reads a public trace of spot instances instead, as those of Bamboo (NSDI 2023): `traces/p3-trace.csv` and
`traces/g4dn-trace.csv` in https://github.com/uclasystem/bamboo, under the MIT licence. Lines are `milliseconds,add,node` or
`milliseconds,remove,node`. Notices before a preemption are not in it, so none is used.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks.goodput.costs import ASSUMPTIONS, Costs
from tests.benchmarks.goodput.elastic import Elastic
from tests.benchmarks.goodput.outcome import Outcome
from tests.benchmarks.goodput.peers import ReplicaGroups, Restarts
from tests.benchmarks.goodput.traces import Trace, failures, most_nodes, spot_instances
from tests.benchmarks.small_runs import machine

HOUR = 3600.0
SETUPS = (0.1, 1, 3, 10, 30, 100, 300)
"""Seconds of communicator set-up at 1,000 ranks."""
SPOT_GROUPS = (1, 4)
"""Nodes per replica group, of few spot instances."""
PEERS_ONLY = {"restart_s", "group_nodes", "quorum_s", "timeout_s"}
"""Assumptions that the elastic system does not depend on."""
ELASTIC, PATIENT, RESTARTS, GROUPS = "elastic", "joiners wait", "restarts", "replica groups"
SYSTEMS = (ELASTIC, PATIENT, RESTARTS, GROUPS)


def outcome(system: str, costs: Costs, trace: Trace, seconds: float, seed: int = 0) -> Outcome:
    if system == RESTARTS:
        return Restarts(costs, trace, seconds).run()
    if system == GROUPS:
        return ReplicaGroups(costs, trace, seconds).run()
    return Elastic(replace(costs, patient=system == PATIENT), trace, seconds, seed).run()


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def assumed() -> Iterator[str]:
    """The table of assumptions."""
    yield f"{'assumption':20} {'low':>8} {'default':>8} {'high':>8}  source"
    for one in ASSUMPTIONS:
        source = one.source + ("" if one.checked else " (not checked)")
        yield f"{one.field:20} {one.low:8g} {getattr(Costs(), one.field):8g} {one.high:8g}  {one.what}. {source}"


def compared(costs: Costs, seconds: float, seeds: int) -> Iterator[str]:
    """Goodput of each system over some traces, and where the rest goes."""
    traces = [failures(costs, seconds, seed) for seed in range(seeds)]
    for system in SYSTEMS:
        found = [outcome(system, costs, trace, seconds, seed) for seed, trace in enumerate(traces)]
        shares = [one.goodput for one in found]
        yield f"{system:16} {percent(statistics.mean(shares)):>8}  ({percent(min(shares))} to {percent(max(shares))})"
        for cause in found[0].lost_s:
            yield f"{'':16} {percent(statistics.mean(one.lost_s.get(cause, 0.0) / one.node_s for one in found)):>8}  {cause}"
        yield f"{'':16} counts: {counts(found[0])}"


def counts(one: Outcome) -> str:
    return ", ".join(f"{name} {value:,.0f}" for name, value in one.counts.items())


def varied(costs: Costs, field: str, value: float) -> Costs:
    """The costs with one of them changed."""
    change: dict[str, Any] = {field: type(getattr(costs, field))(value)}
    return replace(costs, **change)


def set_up(costs: Costs, seconds: float) -> Iterator[str]:
    """How goodput moves with the communicator set-up."""
    yield f"{'set-up, s':>10}" + "".join(f" {system:>15}" for system in SYSTEMS)
    for setup_s in SETUPS:
        changed = varied(costs, "setup_s", setup_s)
        trace = failures(changed, seconds, 0)
        row = [outcome(system, changed, trace, seconds).goodput for system in SYSTEMS]
        yield f"{setup_s:10g}" + "".join(f" {percent(share):>15}" for share in row)


def one_at_a_time(costs: Costs, seconds: float) -> Iterator[str]:
    """Goodput with each assumption at its low and high value, the others at their defaults."""
    trace = failures(costs, seconds, 0)
    systems = (ELASTIC, RESTARTS, GROUPS)
    defaults = {system: outcome(system, costs, trace, seconds).goodput for system in systems}
    yield f"{'low / default / high':20}" + "".join(f" {system:>25}" for system in systems)
    for one in ASSUMPTIONS:
        row = ""
        for system in systems:
            low, high = defaults[system], defaults[system]
            if system != ELASTIC or one.field not in PEERS_ONLY:
                low, high = (_with(system, varied(costs, one.field, value), seconds) for value in (one.low, one.high))
            row += f" {' / '.join(percent(share) for share in (low, defaults[system], high)):>25}"
        yield f"{one.field:20}{row}"


def _with(system: str, costs: Costs, seconds: float) -> float:
    return outcome(system, costs, failures(costs, seconds, 0), seconds).goodput


def cpu(costs: Costs, seconds: float) -> Iterator[str]:
    """CPU time of the protocol per failure."""
    yield f"{'nodes':>8} {'CPU ms per failure':>20} {'events per failure':>20}"
    for nodes in (costs.nodes // 4, costs.nodes, costs.nodes * 4):
        changed = replace(costs, nodes=nodes)
        found = Elastic(changed, failures(changed, seconds, 0), seconds).run().counts
        lost = max(1, found["lost"])
        yield f"{nodes:8,} {found['CPU ms'] / lost:20,.1f} {found['events'] / lost:20,.0f}"


def preempted(path: Path, costs: Costs) -> Iterator[str]:
    """Goodput under a trace of spot instances."""
    trace = spot_instances(path)
    seconds, losses = trace[-1].at, sum(not change.there for change in trace)
    costs = replace(costs, nodes=most_nodes(trace), between_failures_s=seconds / max(1, losses), spare=0.0)
    yield f"{path.name}: {seconds / HOUR:.1f} hours, at most {costs.nodes} nodes, {losses} losses"
    for system in SYSTEMS:
        for size in SPOT_GROUPS if system == GROUPS else (1,):
            found = outcome(system, replace(costs, group_nodes=size), trace, seconds)
            name = f"{system} of {size}" if system == GROUPS else system
            yield f"{name:20} {percent(found.goodput):>8}  {counts(found)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=12.0, help="of the comparison (12); the other tables take a quarter")
    parser.add_argument("--seeds", type=int, default=3, help="traces of the comparison (3)")
    parser.add_argument("--parts", nargs="*", metavar="NAME", help="only these (all)")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="a trace of spot instances, instead of failures")
    options = parser.parse_args()
    costs, began, seconds = Costs(), time.perf_counter(), options.hours * HOUR
    print(machine(), flush=True)
    parts = {
        "assumed": assumed(),
        "goodput": compared(costs, seconds, options.seeds),
        "set-up": set_up(costs, seconds / 4),
        "assumptions": one_at_a_time(costs, seconds / 4),
        "cpu": cpu(costs, seconds / 4),
    }
    if options.trace:
        parts = {"spot instances": preempted(options.trace, costs)}
    for name, lines in parts.items():
        if options.parts and name not in options.parts:
            continue
        print(f"\n{name}")
        for line in lines:
            print(line, flush=True)
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
