"""The incidents of a run: its events, grouped from what went wrong or changed to its consequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from foundray.records.schema import kinds
from foundray.records.traits import Trait
from foundray.wording.sentences import short_node
from foundray.wording.words import duration, plural

Record = Mapping[str, Any]

LATE_SECONDS = 10.0
"""News of a worker within this time after an incident, or its last event, belongs to it."""
AGAIN_SECONDS = 40.0
"""Failures of storage no farther apart than this are one incident: they are reported every 30 s."""
NEAR_STEPS = 20
"""Skipped micro-batches and updates no farther apart than this are one incident."""
REASON, REASONS = 160, 2
"""Characters shown of a reason, and reasons shown of an incident."""

CHAIN = frozenset(kinds(Trait.AWAITS_GROUP))
"""Events that are followed by a new group."""
STOPPING = frozenset(kinds(Trait.STOPS_GROUP))
STORAGE = frozenset(kinds(Trait.STORAGE))
ROUTINE = frozenset(kinds(Trait.ROUTINE))
ENDS = frozenset(kinds(Trait.ENDS))


@dataclass
class Incident:
    time: float
    """Seconds since the epoch."""
    sort: str
    """`start`, `fault`, `change`, `storage`, `numbers`, `stop` or `end`."""
    records: list[Record] = field(default_factory=list)
    """Its events; for `numbers`, records of steps."""
    before: int = 0
    """Workers before it."""
    after: int | None = None
    """Workers of the next group, if there is one."""
    still: float = 0.0
    """Seconds from its first event to the start of the next step."""
    repeated: int = 0
    """Steps repeated."""
    paused: float = 0.0
    """For a command: seconds since the previous one."""

    @property
    def alarming(self) -> bool:
        """Whether something went wrong."""
        return self.sort in ("fault", "storage", "numbers", "stop")

    @property
    def kinds(self) -> list[str]:
        """Kinds of its events, each once."""
        return list(dict.fromkeys(_kind(record) for record in self.records))

    @property
    def step(self) -> int | None:
        """The last step before it, if known."""
        return next((record["step"] for record in self.records if "step" in record), None)

    @property
    def title(self) -> str:
        known = {_kind(record): record for record in reversed(self.records)}
        if self.sort in _TITLES:
            return _TITLES[self.sort](self, known)
        return next(title(self, known) for kind, title in _CHAIN_TITLES.items() if kind in known)

    @property
    def consequence(self) -> str:
        """Its consequence, in words."""
        parts = []
        started = next((record for record in self.records if _kind(record) == "workers_started"), None)
        if started and self.sort != "start":
            source = "memory" if started.get("state") == "memory" else "storage"
            parts.append(f"{plural(started['workers'], 'worker')} continued from {source}, step {started['step']:,}")
            parts.append(f"{plural(self.repeated, 'step')} repeated" if self.repeated else "nothing repeated")
        if self.still >= 0.05:
            parts.append(f"{duration(self.still)} until the next step")
        return "; ".join(parts)

    @property
    def reasons(self) -> list[str]:
        """The first few reasons in its records, each once."""
        found = dict.fromkeys(str(record["reason"]) for record in self.records if record.get("reason"))
        return [text if len(text) <= REASON else f"{text[:REASON]}…" for text in list(found)[:REASONS]]


def incidents(events: Sequence[Record], metrics: Sequence[Record]) -> list[Incident]:
    """The incidents in order of time."""
    # sorted() is stable: of equal times, an event comes before the steps that followed from it.
    found = _Gatherer()
    for record in sorted([*events, *metrics], key=lambda record: record["time"]):
        found.take(record)
    return found.incidents


class _Gatherer:
    """Takes a run's records in order of time."""

    def __init__(self) -> None:
        self.incidents: list[Incident] = []
        self.open: Incident | None = None
        """The incident that waits for a new group."""
        self.moving: list[Incident] = []
        """Incidents after which no step has begun yet."""
        self.workers = 0
        self.step = 0
        """The last one recorded."""
        self.seen = 0.0
        self.ended = True

    def take(self, record: Record) -> None:
        kind, now = _kind(record), record["time"]
        if self.open and not self._waits(now):
            self.open = None
        if kind in ROUTINE:
            pass
        elif kind == "step":
            self._step(record)
        elif kind == "command":
            first = not self.incidents
            self.open = self._new(record, "start" if first else "change" if self.ended else "fault")
            self.open.paused = 0.0 if first else max(0.0, now - self.seen)
            self.workers, self.ended, self.moving = 0, False, []
        elif kind == "workers_started":
            self._started(record)
        elif kind in ENDS:
            self._new(record, "stop" if kind == "failed" else "end")
            self.open, self.ended, self.moving = None, True, []
        elif kind in CHAIN:
            self._chained(record, kind)
        elif kind in STORAGE:
            self._joined(record, "storage", lambda last: now - last.records[-1]["time"] < AGAIN_SECONDS)
        else:
            self._new(record, "numbers" if kind == "unlike" else "change")
        self.seen = now

    def _waits(self, now: float) -> bool:
        """Whether the open incident still waits for a group: the loss of an idle worker alone is followed by none."""
        assert self.open
        kinds = set(self.open.kinds)
        return bool(kinds & STOPPING) or "command" in kinds or now - self.open.records[-1]["time"] < LATE_SECONDS

    def _new(self, record: Record, sort: str) -> Incident:
        made = Incident(record["time"], sort, [record], self.workers)
        self.incidents.append(made)
        return made

    def _joined(self, record: Record, sort: str, near: Callable[[Incident], bool]) -> None:
        """Add a record to the last incident of its sort, if that is near, or to a new one."""
        last = next((one for one in reversed(self.incidents) if one.sort == sort), None)
        if last and "unlike" not in last.kinds and near(last):
            last.records.append(record)
        else:
            self._new(record, sort)

    def _chained(self, record: Record, kind: str) -> None:
        last = next((one for one in reversed(self.incidents) if one.after is not None), None)
        if self.open:
            self.open.records.append(record)
        elif kind == "member_lost" and last and record["time"] - last.records[-1]["time"] < LATE_SECONDS:
            last.records.append(record)
            return
        else:
            self.open = self._new(record, "fault")
        if kind == "member_left" and "group_broken" not in self.open.kinds and self.open.sort == "fault":
            self.open.sort = "change"

    def _started(self, record: Record) -> None:
        one = self.open or self._new(record, "change")
        if one is self.open:
            one.records.append(record)
        one.after, one.repeated = record["workers"], max(0, self.step - record["step"])
        self.open, self.workers = None, record["workers"]
        self.moving.append(one)

    def _step(self, record: Record) -> None:
        for one in self.moving:
            one.still = max(0.0, record["time"] - record["step_s"] - one.time)
        self.moving, self.step = [], record["step"]
        if record.get("skipped") or record.get("spike"):
            self._joined(record, "numbers", lambda last: 0 <= record["step"] - last.records[-1].get("step", 0) <= NEAR_STEPS)


def _kind(record: Record) -> str:
    return str(record.get("event", "step"))


def _lost(one: Incident) -> int:
    """Workers lost from the computing group."""
    lost = sum(_kind(record) == "member_lost" for record in one.records)
    return lost if one.after is None else max(0, one.before - one.after)


def _sizes(one: Incident) -> str:
    if one.after is None:
        return f"{plural(one.before, 'worker')} before"
    return f"{plural(one.after, 'worker')} as before" if one.before == one.after else f"{one.before} → {one.after} workers"


def _moved(one: Incident, known: Mapping[str, Record]) -> str:
    if "command" in known:
        unsaid = ": the previous command ended without a record" if one.sort == "fault" else ""
        return f"Resumed after a pause of {duration(one.paused)}{unsaid}"
    if "member_left" in known:
        node = short_node(str(known["member_left"]["node"]))
        return f"A worker on {node}, which had notice, handed its state over and left, {_sizes(one)}"
    if one.after is not None and one.after > one.before:
        return f"Grew, {_sizes(one)}"
    return f"Regrouped, {_sizes(one)}" if "workers_started" in known else one.kinds[0].replace("_", " ").capitalize()


def _numbers(one: Incident, known: Mapping[str, Record]) -> str:
    if "unlike" in known:
        return "The hardware is not of one kind"
    skipped = sum(len(record.get("skipped", ())) for record in one.records)
    spikes = sum(bool(record.get("spike")) for record in one.records)
    parts = [plural(skipped, "micro-batch", "micro-batches") + " not finite, left out"] if skipped else []
    parts += ["Loss spike, update not made" if spikes == 1 else f"{spikes} loss spikes, updates not made"] if spikes else []
    return "; ".join(parts)


def _storage(one: Incident, known: Mapping[str, Record]) -> str:
    if "checkpoint_skipped" in known:
        return "A damaged checkpoint was skipped"
    if "checkpoint_failed" in known:
        return "A checkpoint could not be written"
    return "A checkpoint was late" if "checkpoint_late" in known else "Old checkpoints could not be deleted"


def _started(one: Incident, known: Mapping[str, Record]) -> str:
    return f"Started on {plural(one.after, 'worker')}" if one.after else "Started"


def _broken(one: Incident, known: Mapping[str, Record]) -> str:
    if lost := _lost(one):
        return f"Lost {plural(lost, 'worker')}, {_sizes(one)}"
    feeder = str(known["group_broken"].get("reason", "")).startswith("the feeder")
    return f"{'The data feeder was lost' if feeder else 'The group broke'}, {_sizes(one)}"


_TITLES = {
    "start": _started,
    "change": _moved,
    "numbers": _numbers,
    "storage": _storage,
    "stop": lambda one, known: "The command ended: the run failed",
    "end": lambda one, known: f"Stopped, asked to by {known['stopped']['by']}" if "stopped" in known else "Finished",
}
_CHAIN_TITLES = {
    "command": _moved,
    "left_out": lambda one, known: (
        f"The node {short_node(str(known['left_out']['node']))} computed other bits and was left out, {_sizes(one)}"
    ),
    "rolled_back": lambda one, known: (
        f"Loss spike at step {known['rolled_back']['spike']:,}: rolled back to step {known['rolled_back']['to']:,}"
    ),
    "group_broken": _broken,
    "too_few": lambda one, known: f"Too few workers, {_sizes(one)}",
    "waiting": lambda one, known: "Waiting for workers",
    "group_not_formed": lambda one, known: "No group could be formed at once",
    "member_left": _moved,
    "member_lost": lambda one, known: "A worker that was not in the group was lost",
}
