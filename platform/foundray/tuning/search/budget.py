"""A FLOP budget that is never exceeded."""

from __future__ import annotations


class FlopBudget:
    """FLOPs that a search may use: reserved before a rung of a trial starts, committed when it ends."""

    def __init__(self, allowed: float, used: float = 0.0):
        self.allowed, self.used = allowed, used
        self.reserved: dict[str, float] = {}
        """FLOPs by trial."""

    def reserve(self, trial: str, amount: float) -> bool:
        """Reserve FLOPs for the trial, unless it has a reservation already; False if too few are left."""
        if trial in self.reserved:
            return True
        if self.used + sum(self.reserved.values()) + amount > self.allowed * (1 + 1e-9):
            return False
        self.reserved[trial] = amount
        return True

    def commit(self, trial: str) -> None:
        """Count the trial's reservation as used."""
        self.used += self.reserved.pop(trial, 0.0)

    def release(self, trial: str) -> None:
        """Drop the trial's reservation unused."""
        self.reserved.pop(trial, None)
