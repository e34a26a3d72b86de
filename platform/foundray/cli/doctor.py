"""`doctor`: check this installation and its machine."""

from __future__ import annotations

import json
import sys
from typing import Any

from foundray.cli.parsing import Verbs


def add_to(verbs: Verbs) -> None:
    added = verbs.add("doctor", _doctor, "check this installation, and the machine under it", shows=True)
    added.add_argument("--storage", default="runs", metavar="PLACE", help="where runs will be kept (default: runs)")
    added.add_argument("--quick", action="store_true", help="without starting Ray")


def _doctor(options: Any) -> None:
    from foundray.doctor import examine, table

    found = examine(options.storage, options.quick)
    print(table(found))
    if options.json:
        print(json.dumps([finding.to_dict() for finding in found]))
    if any(finding.verdict == "wrong" for finding in found):
        sys.exit(2)
