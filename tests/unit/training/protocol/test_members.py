"""Workers, from their start in a slot to their loss."""

from __future__ import annotations

from typing import Any

from tests.unit.scripted import slots

from foundray.training.protocol.members import CLAIM_SECONDS, CORDON_SECONDS, EXPECTED_SECONDS, SLOT_LOST_SECONDS, Members
from foundray.training.protocol.messages import Decision, Dismiss, Note, Phase, Start, Status

NEW_NODE_SECONDS = 30.0


class Nodes:
    """Workers on nodes with room for one each."""

    def __init__(self, most: int = 4):
        self.now, self.decided = 0.0, list[Decision]()
        self.members = Members(most, 30.0, 0.0, self.decided.append)

    def expect(self, nodes: str, certain: bool = False, seconds: float | None = None) -> None:
        self.members.expect(slots(nodes), certain, seconds, self.now)

    def hold(self, held: str, group: tuple[int, ...] = (), draining: str = "") -> dict[str, bool]:
        """Let Ray Train hold these nodes' slots: nodes of the workers, and whether their slot is held."""
        self.members.reconcile(slots(held), frozenset(draining), list(group), self.now)
        return {member.slot.node: member.held_since is not None for member in self.members.of.values()}

    def say(self, number: int, phase: Phase, version: int = 1, **changes: Any) -> None:
        facts = {"blocks": 6} if phase is Phase.READY else {}
        self.members.hear(number, Status(phase, version, facts=facts, **changes), self.now)

    def lost(self) -> list[tuple[int, str]]:
        notes = [one for one in self.decided if isinstance(one, Note) and one.kind == "member_lost"]
        return [(note.fields["member"], note.fields["reason"]) for note in notes]

    def dismissed(self) -> list[int]:
        return [one.number for one in self.decided if isinstance(one, Dismiss)]


# Workers started early


def test_a_worker_on_a_new_node_warms_up_before_its_slot_is_held() -> None:
    nodes = Nodes()
    nodes.expect("ab", certain=True)
    assert nodes.hold("ab") == {"a": True, "b": True}
    nodes.expect("c", seconds=NEW_NODE_SECONDS)
    assert nodes.hold("ab") == {"a": True, "b": True, "c": False}
    assert not nodes.members.may_stay(3, nodes.now) and nodes.members.expected(nodes.now) == 1
    assert nodes.hold("abc") == {"a": True, "b": True, "c": True}
    nodes.now += NEW_NODE_SECONDS + 1
    assert nodes.hold("abc") == {"a": True, "b": True, "c": True}
    assert nodes.members.last_number == 3 and not nodes.dismissed()


def test_it_is_dismissed_if_its_slot_is_not_held_in_time() -> None:
    nodes = Nodes()
    nodes.expect("a", certain=True)
    nodes.hold("a")
    nodes.expect("c", seconds=NEW_NODE_SECONDS)
    assert nodes.hold("a") == {"a": True, "c": False}
    nodes.now += NEW_NODE_SECONDS + 1
    assert nodes.hold("a") == {"a": True}
    assert nodes.dismissed() == [2] and not nodes.lost(), "that is no loss"
    nodes.hold("ac")
    assert nodes.hold("ac") == {"a": True, "c": True}, "it is started when Ray Train holds the slot after all"


def test_no_worker_starts_beyond_the_number_wanted() -> None:
    nodes = Nodes(most=1)
    nodes.expect("a", certain=True)
    assert nodes.hold("ab") == {"a": True}
    assert nodes.hold("ab", draining="a") == {"a": True, "b": True}, "one that drains is on its way out"


def test_expected_workers_have_a_little_time_after_the_first_slots_are_held() -> None:
    nodes = Nodes()
    nodes.expect("ab")
    assert nodes.hold("a") == {"a": True, "b": False}
    nodes.now += CLAIM_SECONDS
    assert nodes.hold("a") == {"a": True, "b": False}
    nodes.now += 0.1
    assert nodes.hold("a") == {"a": True}


def test_expected_workers_wait_long_while_no_slot_is_held() -> None:
    nodes = Nodes()
    nodes.expect("a")
    nodes.now = EXPECTED_SECONDS
    assert nodes.hold("") == {"a": False}
    nodes.now += 1
    assert nodes.hold("") == {}


# Slots and nodes


def test_a_worker_survives_while_ray_train_resizes_and_is_released_long_after_its_slot_is_gone() -> None:
    nodes = Nodes()
    nodes.hold("ab")
    for number in (1, 2):
        nodes.say(number, Phase.READY)
    nodes.now = 10.0
    nodes.hold("")
    nodes.now += 10 * SLOT_LOST_SECONDS
    assert nodes.hold("") == {"a": True, "b": True}, "no slot at all means nothing"
    nodes.hold("a")
    nodes.now += SLOT_LOST_SECONDS + 1
    assert not nodes.members.may_stay(2, nodes.now)
    assert nodes.hold("a", group=(1, 2)) == {"a": True, "b": True}, "while it computes it stays"
    assert nodes.hold("a", group=(1,)) == {"a": True}
    assert nodes.lost() == [(2, "its slot is gone")]


def test_a_worker_on_a_draining_node_is_released_once_it_computes_no_more() -> None:
    nodes = Nodes()
    nodes.hold("ab")
    for number in (1, 2):
        nodes.say(number, Phase.READY)
    assert nodes.hold("ab", group=(1, 2), draining="b") == {"a": True, "b": True}
    assert not nodes.members.may_stay(2, nodes.now)
    nodes.hold("ab", group=(1,), draining="b")
    assert nodes.lost() == [(2, "its node is draining")] and nodes.dismissed() == [2]
    assert nodes.hold("ab", group=(1,), draining="b") == {"a": True}, "and no other starts there"


def test_a_worker_that_left_is_released_without_a_loss() -> None:
    nodes = Nodes()
    nodes.hold("a")
    nodes.say(1, Phase.READY)
    nodes.members.of[1].left = True
    nodes.hold("a", draining="a")
    assert nodes.dismissed() == [1] and not nodes.lost()


def test_a_node_where_a_worker_could_not_start_is_avoided_for_a_while() -> None:
    nodes = Nodes()
    nodes.hold("a")
    nodes.members.lose(1, "ActorDiedError", nodes.now)
    assert nodes.hold("a") == {}
    nodes.now += CORDON_SECONDS
    assert nodes.hold("a") == {"a": True}
    nodes.say(2, Phase.READY)
    nodes.members.lose(2, "ActorDiedError", nodes.now)
    assert nodes.hold("a") == {"a": True}, "one that has worked says nothing about its node"


# What workers say


def test_silence_is_a_loss_but_not_while_a_worker_warms_up() -> None:
    nodes = Nodes()
    nodes.hold("ab")
    nodes.say(1, Phase.READY)
    nodes.now += 31
    nodes.members.lose_silent(nodes.now)
    assert nodes.lost() == [(1, "it has not answered for 30 s")]


def test_a_status_from_before_is_a_sign_of_life_and_no_more() -> None:
    nodes = Nodes()
    nodes.hold("a")
    nodes.say(1, Phase.READY, version=3)
    nodes.members.order(1, generation=2)
    nodes.now = 20.0
    nodes.say(1, Phase.READY, version=4)
    member = nodes.members.of[1]
    assert (member.status.phase, member.heard) == (Phase.RUNNING, 20.0), "it was sent before the order"
    nodes.say(1, Phase.RUNNING, version=5, generation=2)
    nodes.say(1, Phase.BROKEN, version=4, generation=2)
    assert member.status.phase is Phase.RUNNING, "a later one has overtaken it"
    assert member.status.facts == {"blocks": 6}, "which are said once"


def test_a_worker_that_says_what_cannot_be_is_lost() -> None:
    nodes = Nodes()
    nodes.hold("a")
    nodes.say(1, Phase.READY)
    nodes.say(1, Phase.PAUSED, version=2)
    assert nodes.lost() == [(1, "it says that it is paused after ready")]
    assert isinstance(nodes.decided[0], Start) and nodes.dismissed() == [1]
