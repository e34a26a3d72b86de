"""What an attempt to form a group costs."""

from __future__ import annotations

from foundray.training.protocol.attempt import Attempt


class Number(int):
    """A worker's number that counts its comparisons."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Number.compared += 1
        return int(self) == other

    def __hash__(self) -> int:
        return int(self)


def test_a_sign_of_life_costs_the_same_for_any_number_of_workers() -> None:
    size = 1000
    attempt = Attempt(1, 0.0, tuple(Number(number) for number in range(size)))
    Number.compared = 0
    for number in range(size):
        attempt.hear(Number(number), 0.5)
    assert attempt.answered_s == 0.5
    assert Number.compared <= 2 * size, "each is looked up, and not searched for"
