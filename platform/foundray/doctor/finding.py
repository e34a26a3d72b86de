"""The result of a check."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    name: str
    """What was checked."""
    verdict: Literal["ok", "warn", "wrong"]
    """`warn`: runs may be slow or fail later; `wrong`: they cannot work."""
    found: str
    mend: str = ""
    """What would be right, as a sentence; empty if all is well."""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def judged(name: str, found: str, wrong: bool, warn: bool, mend: str) -> Finding:
    verdict: Literal["ok", "warn", "wrong"] = "wrong" if wrong else "warn" if warn else "ok"
    return Finding(name, verdict, found, "" if verdict == "ok" else mend)
