"""Foundray: elastic pre-training on Ray. The verbs of the command line, as functions.

Each imports what it needs when it is called, so that `import foundray` is quick.
"""

from foundray.api.beginning import fetch, init, plan, prepare, quarantine
from foundray.api.looking import audit, events, list_runs, open_run, prune, report, samples, status, steps, track
from foundray.api.models import embed, evaluate, export, load, probe, sample, search
from foundray.api.training import branch, extend, resume, stop, train
from foundray.api.tuning import coordcheck, forecast, transfer, tune
from foundray.errors import FoundrayError, InputError, RunFailed

__version__ = "0.1.0"
__all__ = [
    "FoundrayError", "InputError", "RunFailed", "audit", "branch", "coordcheck", "embed", "evaluate", "events", "export",
    "extend", "fetch", "forecast", "init", "list_runs", "load", "open_run", "plan", "prepare", "probe", "prune", "quarantine",
    "report", "resume", "sample", "samples", "search", "status", "steps", "stop", "track", "train", "transfer", "tune",
]  # fmt: skip
