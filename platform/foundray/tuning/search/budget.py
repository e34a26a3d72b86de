"""A purse of floating-point operations that is never overdrawn."""

from __future__ import annotations


class Purse:
    """FLOPs that may be used: set aside before a part of a trial begins, spent when it is done."""

    def __init__(self, allowed: float, spent: float = 0.0):
        self.allowed, self.spent = allowed, spent
        self.aside: dict[str, float] = {}
        """By trial."""

    def set_aside(self, trial: str, amount: float) -> bool:
        """Whether there is enough left; then it is the trial's. What is aside for it already stays."""
        if trial in self.aside:
            return True
        if self.spent + sum(self.aside.values()) + amount > self.allowed * (1 + 1e-9):
            return False
        self.aside[trial] = amount
        return True

    def spend(self, trial: str) -> None:
        """What was set aside for the trial is used."""
        self.spent += self.aside.pop(trial, 0.0)

    def give_back(self, trial: str) -> None:
        """What was set aside for the trial is not used."""
        self.aside.pop(trial, None)
