"""Reads of the run's log, in which another command may have recorded cuts: it works until it sees that this one has the run."""

from __future__ import annotations

from collections.abc import Callable

from foundray.training.protocol.messages import Decision, ReadCuts


class LogReads:
    def __init__(self, decide: Callable[[Decision], None]):
        self.decide = decide
        self.asked = self.answered = 0
        """Numbers of the last request, and of the last one answered."""
        self.needed = 0
        """The request made once the group was done; 0 before."""

    def ask(self) -> int:
        """Ask for all cuts recorded by now."""
        self.asked += 1
        self.decide(ReadCuts(self.asked))
        return self.asked

    def answer(self, number: int) -> None:
        self.answered = max(self.answered, number)

    def begin(self) -> None:
        """A new group begins."""
        self.needed = 0

    def are_up_to_date(self) -> bool:
        """Tell whether the log was read since the group was done; ask for that the first time."""
        self.needed = self.needed or self.ask()
        return self.answered >= self.needed
