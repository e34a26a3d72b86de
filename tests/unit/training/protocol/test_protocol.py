"""Who computes together, from which state, and when a command ends: the protocol's decisions, event by event."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.scripted import Scripted, every, only, part, shards, slots

from foundray.runs.checkpoints import Checkpoint
from foundray.runs.lineage import Cut
from foundray.training.protocol import messages as m
from foundray.training.protocol.attempt import GRACE_SECONDS, HALT_SECONDS, PROBE_SECONDS
from foundray.training.protocol.messages import Phase
from foundray.training.protocol.protocol import GATHER_SECONDS, OPEN_SECONDS, WAITING_REPORT_SECONDS
from foundray.training.protocol.stages import Stage
from foundray.training.protocol.states import Source

LEFT, RIGHT = (0, 3), (3, 6)
"""Halves of the blocks."""


def device(hardware: str) -> dict[str, Any]:
    """What a ready worker says of itself."""
    return {"blocks": 6, "parameters": [], "hardware": hardware}


# Forming a group


def test_a_group_forms_once_all_that_are_expected_are_ready() -> None:
    run = Scripted()
    first, second = every(m.Start, run.take(m.SlotsHeld(slots("ab"))))
    assert (first, second) == (m.Start(1, slots("a")[0]), m.Start(2, slots("b")[0]))
    assert run.say(1, Phase.READY) == [m.Note("member_ready", {"member": 1, "seconds": 0.0})], "one would do, and two will come"
    assert only(m.Halt, run.say(2, Phase.READY)) == m.Halt(1, (1, 2))
    assert run.answer({1: ()}) == []
    assert run.answer({2: ()}) == [m.Open(1, 2, 1)]
    assert run.take(m.Opened(1, 7, ("host", 1))) == [m.Join(1, 7, (1, 2), ("host", 1), None, (), (), 0)]
    assert run.protocol.stage is Stage.COMPUTING


def test_the_first_workers_do_not_wait_for_long() -> None:
    run = Scripted()
    run.take(m.SlotsHeld(slots("ab")))
    run.say(1, Phase.READY)
    assert run.after(GATHER_SECONDS) == []
    assert run.after(0.1, m.Heard(1, run.statuses[1])) == [m.Halt(1, (1,))]


def test_no_group_forms_of_too_few_and_the_command_gives_up_at_last() -> None:
    run = Scripted(workers=(2, 3), fault__wait_s=100)
    run.ready("a")
    assert run.after(WAITING_REPORT_SECONDS + 1, m.Heard(1, run.statuses[1])) == [m.Waiting(1, 41.0, give_up=False)]
    assert run.after(20, m.Heard(1, run.statuses[1])) == [], "reported once"
    assert run.after(50, m.Heard(1, run.statuses[1]))[-1] == m.Waiting(1, 111.0, give_up=True)
    assert run.protocol.stage is Stage.ENDED


def test_leases_that_do_not_open_are_noted_and_the_workers_asked_again() -> None:
    run = Scripted()
    run.ready("ab")
    run.answer({1: (), 2: ()})
    assert run.take(m.NotOpened(1, "GetTimeoutError")) == [
        m.Note("group_not_formed", {"reason": "GetTimeoutError"}), m.Halt(2, (1, 2))
    ]  # fmt: skip
    run.answer({1: (), 2: ()})
    assert run.take(m.Opened(1, 5, None)) == [], "that answer is late"
    for _ in range(2):
        run.after(OPEN_SECONDS / 3, m.Heard(1, run.statuses[1]), m.Heard(2, run.statuses[2]))
    assert m.Halt(3, (1, 2)) in run.after(OPEN_SECONDS / 3 + 1), "nor does it wait for ever"


def test_a_worker_that_is_lost_while_the_leases_open_is_replaced_by_another_attempt() -> None:
    run = Scripted()
    run.ready("ab")
    run.answer({1: (), 2: ()})
    assert run.take(m.Gone(2, "ActorDiedError"))[-2:] == [m.Dismiss(2), m.Halt(2, (1,))]


def test_groups_are_whole_teams_of_one_node_first() -> None:
    run = Scripted(workers=(1, 5), scale__team=2)
    run.ready("ab")
    run.answer({1: (), 2: ()})
    assert run.open().numbers == (1, 2)
    run.take(m.SlotsHeld(slots("abc")))
    run.now += 1
    run.say(3, Phase.READY)
    assert not every(m.Pause, run.after(2)), "one alone is no team: it waits"
    run.take(m.SlotsHeld(slots("abca")))
    assert every(m.Pause, run.say(4, Phase.READY))
    for number in (1, 2):
        run.say(number, Phase.PAUSED)
    run.answer(dict.fromkeys((1, 2, 3, 4), ()))
    assert run.open().numbers == (1, 4, 2, 3), "the two of node a are one team"
    run.take(m.Gone(3, "ActorDiedError"))
    run.answer(dict.fromkeys((1, 4, 2), ()))
    assert run.open().numbers == (1, 4), "whole teams of those that are left"


def test_a_team_has_one_kind_of_device() -> None:
    run = Scripted(workers=(1, 5), scale__team=2)
    run.take(m.SlotsHeld(slots("abc")))
    run.say(1, Phase.READY, facts=device("H100"))
    assert run.say(2, Phase.READY, facts=device("A100"))[1:] == []
    signs = [m.Heard(number, run.statuses[number]) for number in (1, 2)]
    assert run.after(GATHER_SECONDS + 1, *signs) == [], "two workers, and no team"
    assert every(m.Halt, run.say(3, Phase.READY, facts=device("H100")))
    run.answer({1: (), 2: (), 3: ()})
    assert run.open().numbers == (1, 3)
    run.take(m.SlotsHeld(slots("abcd")))
    run.now += 1
    run.say(2)
    assert every(m.Pause, run.say(4, Phase.READY, facts=device("A100"))), "two that were left over make a team"
    for number in (1, 3):
        run.say(number, Phase.PAUSED)
    run.answer(dict.fromkeys((1, 2, 3, 4), ()))
    assert run.open().numbers == (1, 3, 2, 4)
    run.take(m.Gone(1, "ActorDiedError"))
    run.answer(dict.fromkeys((2, 3, 4), ()))
    assert run.open().numbers == (2, 4)


def test_a_worker_on_a_draining_node_stays_if_no_team_forms_without_it() -> None:
    run = Scripted(workers=(2, 3), scale__team=2)
    run.take(m.SlotsHeld(slots("abc")))
    for number, kind in ((1, "H100"), (2, "H100"), (3, "A100")):
        run.say(number, Phase.READY, facts=device(kind))
    run.answer({1: (), 2: (), 3: ()})
    assert run.open().numbers == (1, 2)
    run.now += 1
    run.say(3)
    assert not every(m.Pause, run.take(m.SlotsHeld(slots("abc"), frozenset("b")), m.Tick())), "the two that stay are no team"
    run.break_(1)
    run.answer({1: (), 2: (), 3: ()})
    assert run.open().numbers == (1, 2)
    assert run.notes("member_left") == run.notes("member_lost") == []


# A group that breaks


def test_a_silent_worker_is_left_out_after_the_grace_if_the_others_hold_the_state() -> None:
    run = Scripted()
    run.form("abc")
    run.take(m.Recorded(5), m.Stored(5))
    assert run.break_(1) == [m.Halt(2, (1, 2, 3))]
    run.now += 0.02
    run.answer({1: shards(5, LEFT), 2: shards(5, RIGHT)})
    assert run.after(GRACE_SECONDS - 0.03) == []
    assert every(m.Open, run.after(0.02)) == [m.Open(2, 2, 1)]
    join = run.open()
    assert isinstance(join.source, Source)
    assert (join.numbers, join.source.step, join.failures) == ((1, 2), 5, 1)
    assert run.notes("group_broken") == [{"step": 5, "reason": "closed by peer"}]


def test_the_grace_is_longer_if_answers_take_longer() -> None:
    run = Scripted()
    run.form("abc")
    run.break_(1)
    run.now += 0.3
    run.answer({1: shards(5, LEFT), 2: shards(5, RIGHT)})
    assert run.after(0.25) == [], "less than twice as long as the slowest answer took"
    assert every(m.Open, run.after(PROBE_SECONDS - 0.54))


def test_a_silent_worker_that_is_needed_is_awaited_until_it_is_lost() -> None:
    run = Scripted()
    run.form("ab")
    run.take(m.Recorded(5), m.Stored(5))
    run.break_(1)
    run.answer({1: shards(5, LEFT)})
    assert run.after(PROBE_SECONDS + 1) == [], "step 5 would be lost"
    opened = run.take(m.Gone(2, "ActorDiedError"))
    assert only(m.Note, opened[:1]).kind == "member_lost" and m.Dismiss(2) in opened
    assert every(m.Open, opened) == [m.Open(2, 1, 1)]
    assert run.open().source is None, "from the beginning: nothing newer is there"


def test_silence_is_a_loss_after_a_while() -> None:
    run = Scripted(fault__silence_s=30)
    run.form("ab")
    run.after(29, m.Heard(1, run.statuses[1]))
    found = run.after(2, m.Heard(1, run.statuses[1]))
    assert m.Note("member_lost", {"member": 2, "node": "b", "reason": "it has not answered for 30 s"}) in found
    assert found[-1] == m.Halt(2, (1,))


def test_a_worker_that_shows_life_is_awaited_though_the_others_hold_the_state() -> None:
    run = Scripted()
    run.form("ab")
    run.break_(1)
    run.answer({1: shards(5, (0, 6))})
    run.now += 0.05
    run.take(m.Heard(2, run.statuses[2]))
    for _ in range(3):
        assert run.after(20, m.Heard(1, run.statuses[1]), m.Heard(2, run.statuses[2])) == [], "it finishes its micro-batch"
    assert every(m.Open, run.after(HALT_SECONDS - 59, m.Heard(1, run.statuses[1]), m.Heard(2, run.statuses[2])))


def test_a_late_answer_to_an_earlier_attempt_is_no_answer() -> None:
    """The worker may compute again since."""
    run = Scripted()
    run.form("ab")
    run.break_(1)
    run.answer({1: shards(5, LEFT), 2: shards(5, RIGHT)})
    run.take(m.NotOpened(2, "GetTimeoutError"))
    late = m.Halted(2, 2, run.statuses[2], shards(5, RIGHT))
    assert run.take(late) == [] and run.answer({1: shards(5, LEFT)}) == []
    assert every(m.Open, run.answer({2: shards(5, RIGHT)})) == [m.Open(3, 2, 1)]


def test_a_worker_that_refuses_an_order_answers_with_what_it_was_before() -> None:
    """It has halted for a later attempt before the order arrived."""
    run = Scripted()
    run.ready("ab")
    run.answer({1: (), 2: ()})
    run.take(m.Opened(1, 1, ("host", 1)))
    run.say(1, Phase.RUNNING)
    run.break_(1, "timed out")
    assert run.statuses[2].phase is Phase.READY, "the order has not reached it"
    assert every(m.Open, run.answer({1: (), 2: ()})) == [m.Open(2, 2, 1)]
    assert run.open().numbers == (1, 2)


def test_the_newest_of_memory_and_storage_is_ordered() -> None:
    stored = Checkpoint(8, "", "sha")
    run = Scripted((stored,))
    assert run.form("ab").source == stored, "by step, cut and manifest"
    run.break_(1)
    run.answer({1: shards(6, LEFT), 2: shards(6, RIGHT)})
    assert run.open().source == stored
    run.break_(1)
    run.answer({1: shards(8, LEFT, generation=2), 2: shards(8, RIGHT, generation=2)})
    assert isinstance(run.open().source, Source), "memory is quicker"


def test_too_many_breaks_without_a_step_end_the_command() -> None:
    run = Scripted(fault__max_restarts=2)
    run.form("a")
    for _ in range(2):
        run.break_(1, "CUDA error")
        run.answer({1: ()})
        run.open()
    run.break_(1, "CUDA error")
    ending = only(m.GiveUp, run.answer({1: ()}))
    assert ending.exit_status == 1
    assert ending.reason.startswith("the run failed 3 times at step 0: CUDA error; `foundray resume run` continues")


def test_a_failed_worker_ends_the_command_with_its_reason() -> None:
    run = Scripted()
    run.take(m.SlotsHeld(slots("a")))
    assert run.say(1, Phase.FAILED, reason="the model has no head", exit_status=2) == [m.GiveUp("the model has no head", 2)]
    assert run.take(m.Tick()) == [], "once"


# Workers that come and go


def test_a_joining_worker_is_taken_in_after_a_pause_that_waits_for_all() -> None:
    run = Scripted()
    run.form("ab")
    run.take(m.Recorded(5), m.Stored(5))
    run.ready("abc")
    assert run.after(0.1) == []
    run.after(0.5, m.Heard(1, run.statuses[1]), m.Heard(3, run.statuses[3]))
    assert every(m.Pause, run.decided) == [m.Pause(1, (1, 2), save=False)]
    assert run.say(1, Phase.PAUSED, done=6) == []
    assert run.say(2, Phase.PAUSED, done=6) == [m.Halt(2, (1, 2, 3))], "those of the group first"
    run.answer({1: shards(6, LEFT), 3: ()})
    assert run.after(10 * PROBE_SECONDS) == [], "the second has stopped with the first, and nothing says that it is lost"
    run.answer({2: shards(6, RIGHT)})
    join = run.open()
    assert join.source and join.source.step == 6 and join.numbers == (1, 2, 3)
    assert not run.notes("group_broken")


def test_a_request_to_pause_is_repeated_because_it_may_arrive_before_the_order() -> None:
    run = Scripted()
    run.form("a")
    run.take(m.StopAsked())
    run.after(0.5)
    run.after(0.6)
    assert every(m.Pause, run.decided) == 2 * [m.Pause(1, (1,), save=True)]


def test_a_leaving_worker_hands_its_state_over_before_the_leases_open() -> None:
    run = Scripted()
    run.form("ab")
    held = slots("ab")
    assert run.take(m.SlotsHeld(held, frozenset("b"))) == [m.Pause(1, (1, 2), save=False)]
    for number in (1, 2):
        run.say(number, Phase.PAUSED, done=6)
    assert run.answer({1: shards(6, LEFT), 2: shards(6, RIGHT)}) == [m.HandOver(2, 2, 1, shards(6, RIGHT))]
    found = run.take(m.HandedOver(2, 2, shards(6, RIGHT)))
    assert found == [m.Note("member_left", {"member": 2, "node": "b"}), m.Open(2, 1, 1)]
    join = run.open()
    assert isinstance(join.source, Source)
    assert (join.numbers, [holder for holder, _ in join.source.shards]) == ((1,), [0, 0])
    assert run.take(m.SlotsHeld(held, frozenset("b"))) == [m.Dismiss(2)], "no loss"


def test_a_leaving_worker_hands_over_the_replicas_of_a_lost_one_too() -> None:
    run = Scripted()
    run.form("abc")
    run.take(m.Recorded(5), m.SlotsHeld(slots("abc"), frozenset("c")), m.Gone(2, "ActorDiedError"))
    first, middle, last = shards(4, (0, 2), (2, 4), (4, 6))
    own, replica = shards(5, (4, 6))[0], replace(middle, losses=((4, 0.5),))
    run.answer({1: (first,)})
    (wanted,) = every(m.HandOver, run.answer({3: (own, replica, last)}))
    assert (wanted.number, wanted.to, wanted.shards) == (3, 1, (middle, last)), "step 5 is lost, and step 4 whole with these"
    assert wanted.shards[0].losses == replica.losses, "with the spike guard's window"
    run.take(m.HandedOver(2, 3, wanted.shards))
    join = run.open()
    assert isinstance(join.source, Source) and (join.numbers, join.source.step) == ((1,), 4)


def test_a_spare_worker_hands_over_what_the_next_group_lacks() -> None:
    """It may have been in a group before, and be the only one that holds a part."""
    run = Scripted(workers=(1, 1))
    run.form("a")
    run.take(m.Expected(slots("b"), certain=True))
    run.say(2, Phase.READY)
    run.break_(1)
    wanted = only(m.HandOver, run.answer({2: shards(5, RIGHT)}) + run.answer({1: shards(5, LEFT)}))
    assert wanted == m.HandOver(2, 2, 1, shards(5, RIGHT))
    assert run.take(m.HandedOver(2, 2, ())) == [m.Open(2, 1, 1)], "it could not; and it does not leave"
    assert run.open().source is None


def test_nothing_is_handed_over_that_the_next_group_has() -> None:
    run = Scripted()
    run.form("ab")
    run.take(m.SlotsHeld(slots("ab"), frozenset("b")))
    run.say(1, Phase.PAUSED, done=6), run.say(2, Phase.PAUSED, done=6)
    found = run.answer({1: shards(6, (0, 6)), 2: shards(6, RIGHT)})
    assert found == [m.Note("member_left", {"member": 2, "node": "b"}), m.Open(2, 1, 1)]


def test_a_worker_on_a_draining_node_continues_if_the_run_would_otherwise_stop() -> None:
    run = Scripted(workers=(2, 3))
    run.form("ab")
    assert run.take(m.SlotsHeld(slots("ab"), frozenset("b"))) == []
    run.break_(1)
    run.answer({1: shards(5, LEFT), 2: shards(5, RIGHT)})
    assert run.open().numbers == (1, 2)


# Cuts


def test_a_spike_is_undone_before_anything_follows() -> None:
    run = Scripted(guard__spike=6, guard__roll_back=4)
    run.form("ab")
    run.take(m.Recorded(6), m.Stored(6))
    run.break_(1, "a spike", spike=7)
    found = run.answer({1: shards(6, LEFT) + shards(4, LEFT), 2: shards(6, RIGHT) + shards(4, RIGHT)})
    undo = only(m.Undo, found)
    assert found.index(undo) < found.index(only(m.Open, found))
    assert (undo.kind, undo.fields["to"], undo.fields["spike"], undo.fields["passed_over"]) == ("rolled_back", 4, 7, 3)
    assert undo.lineage == run.lineage == (Cut(undo.fields["cut"], 4),)
    join = run.open()
    assert join.source and join.source.step == 4, "a later state does not count, whoever holds it"
    assert (join.lineage, [one.passed_over for one in join.roll_backs]) == (undo.lineage, [3])
    assert not run.notes("group_broken"), "nor is it a failure"


def test_a_state_made_under_a_cut_is_known_by_the_cuts_name() -> None:
    run = Scripted(guard__spike=6, guard__roll_back=4)
    run.form("a")
    run.break_(1, "a spike", spike=7)
    run.answer({1: shards(6, (0, 6))})
    run.open()
    (cut,) = run.lineage
    run.break_(1)
    old, new = shards(6, (0, 6)), shards(5, (0, 6), generation=2, made_under=cut.id)
    run.answer({1: old + new})
    join = run.open()
    assert join.source and (join.source.step, join.source.made_under) == (5, cut.id)


def test_a_worker_that_computes_other_bits_is_left_out_and_its_node_avoided() -> None:
    run = Scripted(guard__recheck_every=4)
    run.form("abc")
    run.take(m.Recorded(7), m.Stored(7))
    run.break_(1, "they compute different bits", suspects=(2,), done=7, passed=4)
    found = run.answer({n: shards(7, (0, 6)) + shards(4, (0, 6)) for n in (1, 2, 3)})
    undo = only(m.Undo, found)
    assert (undo.kind, undo.fields["to"], undo.fields["node"]) == ("left_out", 4, "c")
    assert m.Dismiss(3) in found
    join = run.open()
    assert join.source and (join.numbers, join.source.step) == ((1, 2), 4)
    assert not every(m.Start, run.take(m.SlotsHeld(slots("abc")))), "for good"


def joined_by_two() -> Scripted:
    """A worker has computed nine steps alone; then a group of three is about to form, with its state."""
    run = Scripted(guard__recheck_every=4)
    run.form("a")
    run.take(m.Recorded(9), m.Stored(9))
    run.ready("abc")
    run.break_(1)
    run.answer({1: shards(9, (0, 6)), 2: (), 3: ()})
    return run


def test_what_a_worker_computed_alone_is_not_trusted_if_it_computes_other_bits() -> None:
    """Nobody has compared its bits, although rechecks were due."""
    run = joined_by_two()
    assert run.open().source == Source(9, ((0, *shards(9, (0, 6))),))
    run.break_(2, "they compute different bits", suspects=(0,), done=11)
    undo = only(m.Undo, run.answer({n: shards(11, (0, 6), generation=2) for n in (1, 2, 3)}))
    assert (undo.fields["to"], undo.fields["trusted"]) == (0, 0)
    assert run.open().source is None


def test_steps_repeated_by_a_new_group_are_not_trusted_because_others_had_passed_them() -> None:
    run = Scripted(guard__recheck_every=4, checkpoints=(Checkpoint(8, ""),))
    run.form("abc")
    run.take(m.Recorded(12), m.Stored(12))
    for number in (1, 2, 3):
        run.break_(number, passed=12)
    run.answer({1: (), 2: (), 3: ()})
    assert run.open().source == Checkpoint(8, "")
    run.break_(2, "they compute different bits", suspects=(0,), done=11)
    undo = only(m.Undo, run.answer({n: shards(11, (0, 6), generation=2) for n in (1, 2, 3)}))
    assert undo.fields["to"] == 8


def test_a_newcomer_that_computes_other_bits_undoes_only_what_it_took_part_in() -> None:
    run = joined_by_two()
    run.open()
    run.break_(1, "they compute different bits", suspects=(2,), done=11)
    found = run.answer({n: shards(11, (0, 6), generation=2) + shards(9, (0, 6)) for n in (1, 2, 3)})
    assert only(m.Undo, found).fields["to"] == 9, "the one that had computed alone agrees with the majority"


def test_a_spike_of_an_undone_state_is_none() -> None:
    run = Scripted(guard__spike=6, guard__roll_back=4, checkpoints=(Checkpoint(8, ""), Checkpoint(4, "")))
    run.form("a")
    run.break_(1, "a spike", spike=20)
    run.log = OTHERS, ()
    run.take(m.CutsRead(9, *run.log))
    run.answer({1: shards(19, (0, 6))})
    assert not every(m.Undo, run.decided)
    assert run.open().source == Checkpoint(4, "")


def test_a_member_that_should_leave_a_team_is_replaced_by_one_that_waits() -> None:
    run = Scripted(workers=(2, 3), scale__team=2)
    run.form("abc")
    assert run.protocol.group == {1: 0, 2: 1}
    run.now += 1
    run.take(m.Heard(3, run.statuses[3]))
    assert every(m.Pause, run.take(m.SlotsHeld(slots("abc"), frozenset("b"))))


# Cuts of another command


OTHERS = (Cut("aaaa", 4),)


def test_cuts_that_another_command_recorded_since_are_followed_when_a_group_forms() -> None:
    run = Scripted(checkpoints=(Checkpoint(8, ""), Checkpoint(4, "")))
    run.log = OTHERS, ()
    join = run.form("ab")
    assert (join.source, join.lineage) == (Checkpoint(4, ""), OTHERS)
    assert only(m.Follow, run.decided) == m.Follow(4, OTHERS, ())
    assert run.notes("undone_elsewhere") == [{"to": 4}]


def test_a_run_does_not_end_with_a_state_that_another_command_has_undone() -> None:
    run = Scripted(checkpoints=(Checkpoint(24, ""), Checkpoint(4, "")))
    run.form("a")
    run.take(m.Recorded(24), m.Stored(24))
    run.log = OTHERS, ()
    found = run.say(1, Phase.FINISHED, done=24)
    assert not every(m.End, found) and only(m.Halt, found) == m.Halt(2, (1,))
    run.answer({1: shards(24, (0, 6))})
    assert run.open().source == Checkpoint(4, "")
    run.take(m.Recorded(24), m.Stored(24), m.Committed(2, Checkpoint(24, "aaaa")))
    assert run.say(1, Phase.FINISHED, done=24) == [m.End("finished", 24)], "nothing new is in the log"


def test_a_run_whose_log_cannot_be_read_at_its_end_can_be_resumed() -> None:
    run = Scripted(checkpoints=(Checkpoint(24, ""),), fault__storage_wait_s=100)
    run.form("a")
    run.log_answers = False
    assert run.say(1, Phase.FINISHED, done=24) == []
    give_up = only(m.GiveUp, [*run.after(60, m.Heard(1, run.statuses[1])), *run.after(50, m.Heard(1, run.statuses[1]))])
    assert give_up.reason == "the run's log could not be read at its end; wait for the storage, then `foundray resume run`"


def test_cuts_of_two_commands_at_once_undo_what_followed_from_either() -> None:
    """In the log, the other's stands before this command's, under which states were made that do not follow from it."""
    run = Scripted(guard__spike=6, guard__roll_back=4, checkpoints=(Checkpoint(4, ""), Checkpoint(2, "")))
    run.form("a")
    run.break_(1, "a spike", spike=7)
    run.answer({1: shards(6, (0, 6))})
    (own,) = run.lineage
    run.open()
    assert run.protocol.recorded == 4
    run.log = (Cut("aaaa", 2), own), ()
    run.break_(1)
    undo = only(m.Undo, run.answer({1: shards(5, (0, 6), generation=2, made_under=own.id)}))
    assert undo.fields["to"] == 2 and undo.lineage[:2] == run.log[0]
    run.log = undo.lineage, ()
    assert run.open().source == Checkpoint(2, "")


def test_without_a_majority_the_command_gives_up() -> None:
    run = Scripted(guard__recheck_every=4)
    run.form("ab")
    run.break_(1, "they compute different bits", suspects=(0, 1))
    assert "no majority" in only(m.GiveUp, run.answer({1: (), 2: ()})).reason


# Endings


def test_a_stopped_command_ends_once_the_checkpoint_is_complete() -> None:
    run = Scripted()
    run.form("ab")
    assert run.take(m.StopAsked()) == [m.Pause(1, (1, 2), save=True)]
    for number, blocks in ((1, LEFT), (2, RIGHT)):
        run.say(number, written=(part(5, *blocks),))
    for number in (1, 2):
        assert run.say(number, Phase.PAUSED, done=5, saved=True) == []
    commit = only(m.Commit, run.take(m.Recorded(5), m.Stored(5)))
    assert (commit.generation, commit.checkpoint, len(commit.parts)) == (1, Checkpoint(5, ""), 2)
    assert run.take(m.Committed(1, Checkpoint(5, "", "sha"))) == [m.End("stopped", 5)]


def test_a_stop_while_nobody_computes_ends_at_once() -> None:
    run = Scripted((Checkpoint(8, ""),), workers=(2, 3))
    run.ready("a")
    assert run.take(m.StopAsked()) == [m.End("stopped", 8)]


def test_a_stop_is_honoured_though_leases_never_open() -> None:
    run = Scripted((Checkpoint(8, ""),), fault__silence_s=1000)
    run.form("a")
    run.take(m.Recorded(10), m.Stored(10))
    run.break_(1)
    run.answer({1: shards(10, (0, 6))})
    assert run.take(m.StopAsked()) == [], "two steps would be repeated: they are saved if leases open"
    assert not every(m.End, run.after(OPEN_SECONDS - 1) + run.take(m.NotOpened(2, "GetTimeoutError")))
    run.answer({1: shards(10, (0, 6))})
    assert run.after(2) == [m.End("stopped", 8)]


def test_a_stop_while_a_group_forms_ends_at_once_if_all_is_stored() -> None:
    run = Scripted((Checkpoint(8, ""),))
    run.ready("a")
    run.answer({1: ()})
    assert run.protocol.stage is Stage.OPENING
    assert run.take(m.StopAsked()) == [m.End("stopped", 8)]


def test_a_stop_does_not_hide_why_a_group_broke() -> None:
    """A loss of trust has to be recorded before the command ends: nothing would find it later."""
    run = Scripted(guard__recheck_every=4)
    run.form("abc")
    run.break_(1, "they compute different bits", suspects=(2,), done=7)
    assert run.take(m.StopAsked()) == []
    found = run.answer(dict.fromkeys((1, 2, 3), ()))
    assert only(m.Undo, found).kind == "left_out"
    assert found[-1] == m.End("stopped", 0)


def test_a_run_is_finished_with_its_last_checkpoint() -> None:
    run = Scripted()
    run.form("a")
    run.say(1, written=(part(24),))
    assert run.say(1, Phase.FINISHED, done=24, facts={"weights_sha256": "f"}) == []
    run.take(m.Recorded(24), m.Stored(24))
    assert run.take(m.Committed(1, Checkpoint(24, "", "sha"))) == [m.End("finished", 24)]


def test_a_last_checkpoint_that_cannot_be_written_ends_the_command_after_a_while() -> None:
    run = Scripted(fault__storage_wait_s=60)
    run.form("a")
    run.say(1, written=(part(24),))
    run.say(1, Phase.FINISHED, done=24)
    run.take(m.Recorded(24), m.Stored(24))
    for _ in range(3):
        run.after(20, m.NotCommitted(Checkpoint(24, ""), "disk full"), m.Heard(1, run.statuses[1]))
    ending = only(m.GiveUp, run.after(1, m.Heard(1, run.statuses[1])))
    assert ending.reason.startswith("the last checkpoint could not be written: disk full; make room")


def test_a_command_ends_that_another_has_taken_over_from() -> None:
    run = Scripted()
    run.form("a")
    assert run.take(m.TakenOver("run")) == [m.GiveUp("another command has taken over the run run")]


@pytest.mark.parametrize(("expected", "draining", "ends"), [(False, False, False), (False, True, True), (True, False, True)])
def test_a_run_that_has_a_worker_with_a_slot_does_not_give_up_for_lack_of_slots(
    expected: bool, draining: bool, ends: bool
) -> None:
    run = Scripted()
    run.take(m.Expected(slots("a"), certain=not expected))  # it is warming up
    held = () if expected else slots("a")
    found = run.take(m.SlotsHeld(held, frozenset("a") if draining else frozenset(), problem="no slot"))
    assert (m.GiveUp("Ray Train gave up: no slot") in found) == ends


def test_events_that_arrive_together_are_taken_together() -> None:
    """All of them are known before anything follows."""
    run = Scripted()
    run.form("ab")
    news = [m.Heard(n, run.status(n, Phase.BROKEN, reason="closed by peer")) for n in (1, 2)]
    assert run.protocol.take(news, run.now) == [m.Halt(2, (1, 2))], "once"
