"""When a checkpoint's manifest is due, and the cost of a look."""

from __future__ import annotations

import pytest
from tests.unit.scripted import BLOCKS, part

from foundray.runs.checkpoints import Checkpoint
from foundray.training.protocol import commits
from foundray.training.protocol.commits import MAX_PENDING, REPORT_SECONDS, RETRY_SECONDS, Commits
from foundray.training.protocol.messages import Commit, Decision, Note, Written


class Subject(Commits):
    """The commits of a group that computes as generation 1, and what they decide."""

    def __init__(self, wait_s: float = 60.0, pinned: int = 0):
        self.decided = list[Decision]()
        super().__init__(wait_s, lambda step: step == pinned, self.decided.append)
        self.begin(1, BLOCKS)

    def due(self, stored: int = 100, now: float = 0.0) -> list[int]:
        """Steps whose manifests are decided on now."""
        self.decided.clear()
        self.write_next(stored, now)
        return [one.checkpoint.step for one in self.decided if isinstance(one, Commit)]

    def reasons(self) -> list[tuple[int, str]]:
        return [(one.fields["step"], one.fields["reason"]) for one in self.decided if isinstance(one, Note)]


def test_a_manifest_is_due_once_all_blocks_are_written_and_the_records_stored() -> None:
    subject = Subject()
    subject.take(1, (left := part(4, 0, 3),))
    assert subject.due() == [] and subject.idle(100)
    subject.take(2, (right := part(4, 3, 6, made_under=""),))
    assert subject.due(stored=3) == [] and subject.idle(3) and not subject.idle(4)
    assert subject.due(stored=4) == [4]
    assert subject.decided == [Commit(1, Checkpoint(4, ""), (left, right))]
    assert subject.due() == [], "one at a time"
    subject.committed(1, 4)
    assert subject.due() == [] and subject.idle(100)


@pytest.mark.parametrize("other", [part(4, 0, 3), part(4, 3, 6, generation=2), part(5, 3, 6), part(4, 4, 6)])
def test_what_does_not_make_a_whole_is_not_committed(other: Written) -> None:
    subject = Subject()
    subject.take(1, (part(4, 0, 3),))
    subject.take(2, (other,))
    assert subject.due() == []


def test_shards_of_an_earlier_group_or_step_do_not_count() -> None:
    subject = Subject()
    subject.begin(2, BLOCKS)
    subject.take(1, (part(4),))
    assert subject.due() == []
    subject.take(1, (part(8, generation=2),))
    assert subject.due() == [8]
    subject.committed(2, 8)
    subject.take(1, (part(8, generation=2), part(4, generation=2)))
    assert subject.due() == [] and not subject.pending


def test_a_cut_is_part_of_the_checkpoints_name() -> None:
    subject = Subject()
    subject.take(1, (part(4, made_under="a1b2"),))
    assert subject.due() == [4]
    assert subject.decided == [Commit(1, Checkpoint(4, "a1b2"), (part_of(subject),))]


def part_of(subject: Subject) -> Written:
    return next(iter(subject.pending[4].parts.values()))


def test_manifests_are_written_in_order_and_retried() -> None:
    subject = Subject(wait_s=10)
    for step in (4, 8):
        subject.take(1, (part(step),))
    assert subject.due(now=0) == [4]
    subject.not_committed(4, "disk full", now=1)
    assert subject.reasons() == [(4, "disk full")]
    assert subject.due(now=1) == [] and subject.due(now=1 + RETRY_SECONDS) == [4], "the later one waits for it"
    subject.not_committed(4, "disk full", now=3)
    assert subject.reasons() == [], "reported once in a while"
    assert subject.due(now=11) == [8], "and not for ever"
    assert subject.reasons() == [(4, "disk full; giving it up, because later ones are waiting")]
    subject.not_committed(8, "disk full", now=2 + REPORT_SECONDS)
    assert subject.reasons()[-1:] == [(8, "disk full")]
    assert subject.due(now=1000) == [8], "the last one is never given up"


def test_a_shard_that_could_not_be_written_is_reported_once() -> None:
    subject = Subject()
    failed = Written(1, 4, "", "503", 0.1)
    for number in (1, 2):
        subject.take(number, (failed,))
    assert subject.reasons() == [(4, "503")]
    assert subject.due() == []


def test_unfinished_ones_are_forgotten_at_last_those_to_keep_later_than_others() -> None:
    subject = Subject(pinned=1)
    for step in range(1, 3 * MAX_PENDING):
        subject.take(1, (part(step, 0, 3),))
    assert len(subject.pending) == MAX_PENDING and min(subject.pending) == 1
    assert 2 not in subject.pending


def test_a_look_costs_the_same_however_many_checkpoints_there_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """This counts, rather than times, the coverings checked by a look in which nothing is new."""
    checked = 0
    honest = commits.problem_of

    def counted(*given: object) -> str:
        nonlocal checked
        checked += 1
        return honest(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(commits, "problem_of", counted)
    subject = Subject()
    halves: tuple[tuple[Written, ...], tuple[Written, ...]] = ((), ())
    for step in range(1, 51):
        halves = (*halves[0], part(step, 0, 3)), (*halves[1], part(step, 3, 6))
        for number, written in enumerate(halves):
            subject.take(number, written)
        assert subject.due() == [step]
        subject.committed(1, step)
    assert 0 < checked <= 100, "once per shard at most"
    before = checked
    for _ in range(100):
        for number, written in enumerate(halves):
            subject.take(number, tuple(written))
        subject.due()
    assert checked == before and not subject.pending
