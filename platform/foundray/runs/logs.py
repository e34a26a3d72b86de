"""`foundray logs`: what happened in a run, in sentences or as raw records."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from foundray.records.schema import kinds
from foundray.records.traits import Trait
from foundray.runs.following import Follower, looks
from foundray.runs.run import Run
from foundray.wording.sentences import Record, dated, plain, progress, remarks, sentence
from foundray.wording.standard_json import dumps

HIDDEN = kinds(Trait.HIDDEN)
STEP_SECONDS = 10.0
"""Seconds of the run's time between two lines about steps."""


def logs(run: Run, follow: bool, out: Callable[[str], None]) -> None:
    """Print one line per event, and one about the steps every ten seconds; with `follow`, until the run ends.

    Raises InputError.
    """
    spec = run.spec()
    log = Log(spec.train.steps, spec.objective.build().loss_unit, out)
    if not follow:
        follower = Follower(run.folder)
        log.tell(follower.new())
        return log.warn(follower.damage())
    problem = ""
    for look in looks(run):
        if look.problem and look.problem != problem:
            out(plain(look.problem))
        problem = look.problem
        if look.restarted and log.started:
            out("the run was started over")
            log = Log(log.steps, log.loss_unit, out)
        log.tell(look.records)
        log.warn(look.damage)


def raw(run: Run, follow: bool, out: Callable[[str], None], aside: Callable[[str], None]) -> None:
    """Print each event and step as a JSON object, in order of time; report damage to `aside`.

    A number that is not finite is `null`. Raises InputError.
    """
    if not follow:
        follower = Follower(run.folder)
        for record in follower.all():
            out(dumps(record))
        for sentence in follower.damage():
            aside(plain(sentence))
        return
    said: Sequence[str] = ()
    for look in looks(run):
        for record in look.records:
            out(dumps(record))
        for sentence in (*([look.problem] if look.problem else []), *(look.damage if look.damage != said else ())):
            aside(plain(sentence))
        said = look.damage


class Log:
    def __init__(self, steps: int, loss_unit: str, out: Callable[[str], None]):
        self.steps, self.loss_unit, self.out = steps, loss_unit, out
        self.started = False
        """Whether any record was seen."""
        self.stepped = -math.inf
        """Time of the last step with a line."""
        self.warned: list[str] = []

    def warn(self, damage: Sequence[str]) -> None:
        """Report damage; again if it has changed."""
        if (said := list(damage)) != self.warned:
            self.warned = said
            for sentence in said:
                self.out(plain(sentence))

    def tell(self, records: list[Record]) -> None:
        for record in records:
            self.started = True
            for text in self._lines(record):
                self.out(dated(record, text))

    def _lines(self, record: Record) -> list[str]:
        if "event" in record:
            return [] if record["event"] in HIDDEN else [sentence(record, self.loss_unit)]
        if record["time"] - self.stepped < STEP_SECONDS:
            return remarks(record)
        self.stepped = record["time"]
        return [*remarks(record), progress(record, self.steps)]
