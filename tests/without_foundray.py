"""A Python without Foundray, where our exports must work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

BLOCK = """
import sys


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0].startswith("foundray"):
            raise ModuleNotFoundError(f"no {name} here")


sys.meta_path.insert(0, Blocked())
try:
    import foundray
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("foundray can be imported")
"""

EACH = """
import json

for code, arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    print(arguments, flush=True)
    exec(code, {"sys": sys})
"""


def run_all(scripts: list[tuple[str, list[object]]], cwd: Path | None = None) -> str:
    """Output of scripts, each with its arguments, one after the other in one process: most of a script is its imports."""
    return run(EACH, json.dumps([(code, [str(each) for each in arguments]) for code, arguments in scripts]), cwd=cwd)


def run(code: str, *arguments: object, cwd: Path | None = None, timeout: float = 240, first: Path | None = None) -> str:
    """Output of a script that cannot import our modules, and must succeed; `arguments` are its sys.argv[1:].

    It finds packages in the folder `first` before those that are installed.
    """
    if first:
        code = f"sys.path.insert(0, {str(first)!r})\n{code}"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-I", "-c", BLOCK + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
