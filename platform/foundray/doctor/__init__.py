"""`foundray doctor`: checks of an installation, and of the machine under it.

Libraries that may be broken are imported in processes of their own, so that one that raises, crashes or hangs is a finding.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from foundray.doctor import machine, packages, reaching
from foundray.doctor.finding import Finding
from foundray.doctor.probes import probed

__all__ = ["Finding", "examine", "table"]


def examine(storage: str = "runs", quick: bool = False) -> list[Finding]:
    """Run all checks, with `storage` as the folder of runs; `quick` leaves out starting Ray."""
    libraries = ("torch", "bitsandbytes", "objectives", *(() if quick else ("ray",)))
    # Libraries are probed in processes, beside the quick checks.
    with ThreadPoolExecutor() as pool:
        pending = [pool.submit(probed, name) for name in libraries]
        checks: list[Callable[[], Finding]] = [
            packages.python,
            *(machine.cores, machine.memory, machine.shared_memory, machine.open_files, lambda: machine.disk(storage)),
            *(machine.temporary_folder, machine.clock, reaching.address, reaching.token, reaching.proxy),
        ]
        found = [check() for check in checks]
        return [found[0], *packages.required(), *(future.result() for future in pending), *found[1:]]


def table(findings: list[Finding]) -> str:
    """A line per check, and a sentence for each thing to mend."""
    wide = max(len(finding.name) for finding in findings)
    lines = [f"{finding.verdict:5}  {finding.name:{wide}}  {finding.found}" for finding in findings]
    mends = [f"{finding.name}: {finding.mend}" for finding in findings if finding.mend]
    return "\n".join([*lines, *(["", *mends] if mends else [])])
