"""Checkpoints that cannot be used: another is ordered in their place, and when a command gives up."""

from __future__ import annotations

from tests.unit.scripted import Scripted, every, only, part, shards

from foundray.errors import InputError
from foundray.runs.checkpoints import Checkpoint
from foundray.training.protocol import messages as m
from foundray.training.protocol.messages import Phase, Unreadable
from foundray.training.protocol.protocol import COMMIT_SECONDS

OLD, NEW = Checkpoint(40, "", "sha"), Checkpoint(50, "", "sha")


def begin(*checkpoints: Checkpoint, **changes: object) -> Scripted:
    run = Scripted(checkpoints, train__steps=200, **{"fault__storage_wait_s": 60, **changes})
    run.form("ab")
    return run


def refuse(run: Scripted, checkpoint: Checkpoint, away: bool = False, reason: str = "") -> list[m.Decision]:
    """Let both workers report a checkpoint that they cannot load, and halt."""
    unreadable = Unreadable(checkpoint, reason or f"step-{checkpoint.step:08d} is damaged")
    for number in (1, 2):
        run.break_(number, unreadable.reason, unreadable=unreadable, away=away)
    return run.answer({1: (), 2: ()})


def test_the_next_newest_is_ordered_and_the_skipped_one_is_noted() -> None:
    run = begin(NEW, OLD)
    refuse(run, NEW)
    assert run.open().source == OLD
    reason = "step-00000050 is damaged"
    assert run.notes("checkpoint_skipped") == [{"step": 40, "reason": reason, "going_on_from": 40}], "once, not per worker"
    assert not run.notes("group_broken") and run.protocol.failures.total == 0, "it uses up no restart"


def test_one_that_was_skipped_is_not_ordered_again() -> None:
    run = begin(NEW, OLD)
    refuse(run, NEW)
    run.open()
    run.break_(1)
    run.answer({1: (), 2: ()})
    assert run.open().source == OLD
    assert len(run.notes("checkpoint_skipped")) == 1


def test_if_all_are_damaged_the_input_is_at_fault() -> None:
    run = begin(NEW, OLD)
    refuse(run, NEW)
    run.open()
    refuse(run, OLD)
    ending = only(m.GiveUp, run.take(m.Opened(run.protocol.attempt.number, 9, ("host", 1))))
    assert ending.exit_status == InputError.exit_status == 2
    assert ending.reason == (
        "no checkpoint can be used: step-00000050 is damaged; step-00000040 is damaged; "
        "delete the run's checkpoints to start over"
    )


def test_storage_that_is_away_is_waited_for_and_nothing_is_skipped() -> None:
    run, reason = begin(NEW), "s3://b/x cannot be read: SLOW_DOWN"
    for _ in range(20):
        assert refuse(run, NEW, away=True, reason=reason)[-1].fields["reason"] == reason  # type: ignore[union-attr]
        assert not every(m.Open, run.after(0.5)), "not at once"
        assert every(m.Open, run.after(0.6))
        assert run.open().source == NEW
        run.now += 1
    assert not run.notes("checkpoint_skipped")
    run.now += 60
    ending = only(m.GiveUp, refuse(run, NEW, away=True, reason=reason))
    assert ending.exit_status == 1
    assert ending.reason.startswith(f"storage has not answered for 60 s: {reason}; once it does, `foundray resume run`")


def test_a_checkpoint_that_never_answers_is_skipped_after_a_while_if_there_is_another() -> None:
    """Each resume would end with it otherwise."""
    run, reason = begin(NEW, OLD), "s3://b/x cannot be read: SLOW_DOWN"
    refuse(run, NEW, away=True, reason=reason)
    run.after(2)
    assert run.open().source == NEW
    run.now += 60
    assert every(m.Open, refuse(run, NEW, away=True, reason=reason)), "at once"
    assert run.open().source == OLD
    assert run.notes("checkpoint_skipped") == [{"step": 40, "reason": reason, "going_on_from": 40}]
    ending = only(m.GiveUp, refuse(run, OLD, away=True, reason=reason))
    assert ending.exit_status == 1 and "storage has not answered for 60 s" in ending.reason, "none of them does"


def test_the_user_is_not_asked_to_delete_a_checkpoint_that_may_answer_later() -> None:
    run = begin(NEW, OLD)
    refuse(run, NEW, away=True, reason="step-00000050 does not answer")
    run.after(2)
    run.open()
    run.now += 60
    refuse(run, NEW, away=True, reason="step-00000050 does not answer")
    run.open()
    refuse(run, OLD)
    ending = only(m.GiveUp, run.take(m.Opened(run.protocol.attempt.number, 9, ("host", 1))))
    assert ending.exit_status == 1 and "delete" not in ending.reason
    assert ending.reason.startswith("no checkpoint can be used: step-00000050 does not answer; step-00000040 is damaged; once")


def test_what_is_skipped_neither_counts_as_complete_nor_ends_a_command() -> None:
    """Before the run has written its own in its place."""
    run = begin(NEW, OLD)
    refuse(run, NEW)
    run.open()
    assert run.protocol.usable() == [OLD]
    run.take(m.StopAsked())
    for number in (1, 2):
        run.say(number, Phase.PAUSED, done=50, saved=True)
    assert not every(m.End, run.decided)
    run.say(1, written=(part(50, generation=2),))
    assert only(m.Commit, run.take(m.Recorded(50), m.Stored(50))).checkpoint.name == NEW.name
    again = NEW._replace(sha256="another")
    assert run.take(m.Committed(2, again)) == [m.End("stopped", 50)]
    assert run.protocol.usable() == [again, OLD]


def test_checkpoints_that_a_cut_has_undone_are_not_ordered() -> None:
    run = Scripted((Checkpoint(8, ""), Checkpoint(4, "")), guard__spike=6, guard__roll_back=4)
    run.form("a")
    run.break_(1, "a spike", spike=7)
    run.answer({1: ()})
    assert run.open().source == Checkpoint(4, "")
    assert [one.step for one in run.protocol.usable()] == [4]


def test_a_commit_in_flight_does_not_bring_back_what_a_cut_undoes() -> None:
    run = Scripted(guard__spike=6, guard__roll_back=4)
    run.form("a")
    run.say(1, written=(part(6),))
    assert every(m.Commit, run.take(m.Recorded(6), m.Stored(6)))
    run.break_(1, "a spike", spike=7)
    run.answer({1: ()})
    run.take(m.Committed(1, Checkpoint(6, "", "sha")))
    assert run.open().source is None and run.protocol.usable() == []


def test_deleted_checkpoints_are_not_ordered() -> None:
    run = begin(NEW, OLD)
    run.take(m.Pruned(frozenset({NEW})))
    run.break_(1)
    run.answer({1: (), 2: ()})
    assert run.open().source == OLD


def written_by_the_first_group() -> Scripted:
    """A whole checkpoint whose manifest is being written when the group breaks, without a state in memory."""
    run = begin()
    run.say(1, written=(part(60),))
    run.take(m.Recorded(60), m.Stored(60))
    run.break_(1)
    assert not every(m.Open, run.answer({1: (), 2: ()}))
    return run


def test_a_whole_checkpoint_is_awaited_if_memory_holds_no_state() -> None:
    run = written_by_the_first_group()
    assert every(m.Open, run.take(m.Committed(1, Checkpoint(60, "", "sha"))))
    assert run.open().source == Checkpoint(60, "", "sha")


def test_a_commit_of_an_earlier_group_is_a_checkpoint_and_ends_nothing_of_the_present_one() -> None:
    run = written_by_the_first_group()
    assert every(m.Open, run.after(COMMIT_SECONDS + 1)), "it is not awaited for ever"
    run.open()
    run.say(1, written=(part(55, generation=2),))
    run.take(m.Committed(1, Checkpoint(60, "", "sha")), m.Recorded(55), m.Stored(55))
    assert [one.checkpoint.step for one in every(m.Commit, run.decided)] == [60, 55]


def test_a_whole_checkpoint_outlives_its_group() -> None:
    """Its records may be stored later."""
    run = begin()
    run.say(1, written=(part(60), part(64, 0, 3)))
    run.take(m.Recorded(66))
    run.break_(1)
    run.answer({1: shards(66, (0, 6)), 2: ()})
    run.open()
    assert not every(m.Commit, run.decided)
    commit = only(m.Commit, run.take(m.Stored(66)))
    assert (commit.generation, commit.checkpoint.step) == (1, 60), "and that of step 64 is not whole"
