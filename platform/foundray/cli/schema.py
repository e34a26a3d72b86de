"""`schema`: the JSON schema of a spec."""

from __future__ import annotations

import json
from typing import Any

from foundray.cli.parsing import Verbs


def add_to(verbs: Verbs) -> None:
    added = verbs.add("schema", _schema, "print the JSON schema of a spec", as_json=False, shows=True)
    added.add_argument("--markdown", action="store_true", help="explain every field for people instead, as docs/spec.md does")


def _schema(options: Any) -> None:
    if options.markdown:
        from foundray.reference import markdown

        print(markdown(), end="")
    else:
        from foundray.spec import Spec
        from foundray.spec.documented import json_schema

        print(json.dumps(json_schema(Spec), indent=2))
