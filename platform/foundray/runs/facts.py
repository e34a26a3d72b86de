"""Where a run stands, from its folder and its logs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from dataclasses import field as dataclass_field
from itertools import groupby
from typing import Any

from foundray.records.schema import kinds
from foundray.records.traits import Trait
from foundray.runs.checkpoints import newest_step
from foundray.runs.extension import EXTENDED
from foundray.runs.goodput import ENDS, Account, goodput_of
from foundray.runs.lineage import evaluations, recorded
from foundray.runs.lock import is_held
from foundray.runs.restarts import restarts
from foundray.spec import Spec
from foundray.storage import Store
from foundray.wording.shown import Shown
from foundray.wording.standard_json import dumps

MOVES = kinds(Trait.MOVES)
"""Kinds of events that set the step that the run is at."""
RECENT = 200
"""Most steps that the pace is averaged over, as in `progress`."""


@dataclass
class Facts(Shown):
    """Where a run stands, for programs: the last line of `train`, `resume` and `status` with `--json`."""

    run: str
    state: str
    """`new`, `running`, `stopped` (on request), `interrupted`, `failed` or `finished`."""
    step: int
    """Optimizer steps done, as far as recorded."""
    tokens: int
    """Positions trained on: steps times tokens per step."""
    loss: float | None
    """Training loss of the last step, in the unit of its objective: nats per token, squared error per value."""
    val_loss: float | None
    """Last validation loss, in the same unit."""
    perplexity: float | None
    """Its exponential, if the loss is the data's own likelihood."""
    weights_sha256: str | None
    """Hash of a finished run's weights: over the parameters in name order, the name and then the little-endian fp32 bytes."""
    init_from: dict[str, Any] | None
    """Where its first weights came from: `run`, `step`, `weights_sha256`, `teacher_sha256`."""
    branch_from: dict[str, Any] | None
    """The state of another run from which it continued: `run`, `step`, `state_sha256`."""
    ended_early: str | None
    """Why a finished run ended before `train.steps`."""
    stopped_by: str | None
    """Who stopped the run: a person, or a signal: `SIGINT` (Ctrl-C), `SIGTERM`, or `SIGHUP` (a closed terminal)."""
    checkpoint: int | None
    """Step of the newest complete checkpoint."""
    workers: int | None
    """Number of workers in the last group."""
    worlds: list[dict[str, Any]]
    """The workers over time: `time`, `step`, `workers` and the size of `team` of each group that differs in these from the one
    before."""
    restarts: int
    """Groups formed again: see `foundray.runs.restarts`."""
    steps_repeated: int
    """Steps repeated because they came after the checkpoint that the run continued from."""
    tokens_per_s: float | None
    """While stepping: without start-up, evaluation and checkpoints."""
    seconds: float
    """Total wall time while a command was running the run."""
    goodput: float | None
    """Share of that time spent on steps that count."""
    account: dict[str, float]
    """Those seconds by part: see `foundray.runs.goodput`."""
    damage: list[str] = dataclass_field(default_factory=list)
    """One sentence per damaged log file: its unreadable records are missing from these facts."""
    seconds_left: float | None = None
    """Time until the last step at the pace of the last ones, while the run is running; None without a pace."""

    def to_json(self) -> str:
        """Dump the facts; a number that is not finite becomes `null`."""
        return dumps(asdict(self))

    def __getitem__(self, name: str) -> Any:
        """Read a fact as in the JSON object."""
        return asdict(self)[name]


def facts_of(folder: Store, spec: Spec, story: Iterable[dict[str, Any]]) -> Facts:
    """Facts of the run in `folder`; `story` holds its events and steps in order of time."""
    events, spent = list[dict[str, Any]](), Account()
    steps = _Steps(spec.train.steps)
    for record in story:
        spent.add(record)
        if "event" in record:
            events.append(record)
            if record["event"] == "workers_started":
                steps.times.clear()  # other workers, another pace
        else:
            steps.add(record)
    groups = [event for event in events if event["event"] == "workers_started"]
    ends = [event for event in events if event["event"] in ENDS]
    resumed = ends and any(e["event"] in ("command", EXTENDED) for e in events[events.index(ends[-1]) :])
    end = ends[-1] if ends and not resumed else None
    over = end["event"] if end else None
    state = over or ("running" if is_held(folder) else "interrupted" if events else "new")
    parts = spent.parts()
    share = goodput_of(parts)
    step = ends[-1]["step"] if state == "finished" else _done(events, steps.last)
    evaluation = next(reversed(evaluations(events)), None)
    return Facts(
        run=folder.url,
        state=state,
        step=step,
        tokens=step * spec.tokens_per_step,
        loss=steps.last.get("loss"),
        val_loss=None if evaluation is None else float(evaluation["val_loss"]),
        perplexity=None if evaluation is None else evaluation.get("perplexity"),
        weights_sha256=ends[-1].get("weights_sha256") if state == "finished" else None,
        init_from=spec.init_from.model_dump() if spec.init_from else None,
        branch_from=spec.branch_from.model_dump() if spec.branch_from else None,
        ended_early=ends[-1].get("reason") if state == "finished" else None,
        stopped_by=end["by"] if end and state == "stopped" else None,
        checkpoint=newest_step(folder / "checkpoints", recorded(events)),
        workers=groups[-1]["workers"] if groups else None,
        worlds=_worlds(events),
        restarts=restarts(events),
        steps_repeated=steps.repeated,
        tokens_per_s=round(steps.count * spec.tokens_per_step / steps.seconds, 1) if steps.seconds else None,
        seconds=round(sum(parts.values()), 3),
        goodput=round(share, 4) if steps.count and share is not None else None,
        account=parts,
        seconds_left=steps.seconds_left(spec.train.steps - step) if state == "running" else None,
    )


class _Steps:
    """Sums over a run's steps."""

    def __init__(self, steps: int) -> None:
        self.last: dict[str, Any] = {}
        self.count, self.seconds = 0, 0.0
        self.steps, self.seen = steps, bytearray()
        """By step, whether it was recorded, as far as the records reach."""
        self.repeated = 0
        """Steps recorded again."""
        self.times = deque[float](maxlen=RECENT)
        """When the last steps of the current group were recorded, in seconds since the epoch."""

    def add(self, record: dict[str, Any]) -> None:
        number = record["step"]
        self.last = record
        self.count += 1
        self.seconds += record["step_s"]
        self.times.append(record["time"])
        if 0 <= number <= self.steps:
            self.seen.extend(bytes(max(0, number + 1 - len(self.seen))))
            self.repeated += self.seen[number]
            self.seen[number] = 1

    def seconds_left(self, steps: int) -> float | None:
        if len(self.times) < 2:
            return None
        return round((self.times[-1] - self.times[0]) / (len(self.times) - 1) * steps, 1)


def _done(events: list[dict[str, Any]], last: dict[str, Any]) -> int:
    """Steps done in the run's current state: those of the last step, or of the state it has returned to since."""
    moved = next((event for event in reversed(events) if event["event"] in MOVES), None)
    if moved and (not last or moved["time"] > last["time"]):
        return int(moved.get("to", moved["step"]))
    return int(last.get("step", 0))


def _worlds(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Time, step, workers and size of teams of each group that differs in these from the one before."""
    groups = (event for event in events if event["event"] == "workers_started")
    firsts = (next(same) for _, same in groupby(groups, key=lambda group: (group["workers"], group.get("team", 1))))
    return [
        {"time": group["time"], "step": group["step"], "workers": group["workers"], "team": group.get("team", 1)}
        for group in firsts
    ]
