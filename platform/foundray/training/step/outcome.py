"""What a step or an evaluation gives, or why a step gave nothing."""

from __future__ import annotations

from dataclasses import dataclass

from foundray.errors import RunFailed


@dataclass(frozen=True)
class StepResult:
    loss: float
    """Mean over the step's predicted tokens, in nats, before the update."""
    tokens: int
    grad_norm: float
    lr: float
    takers: list[int]
    """The rank that computed each micro-batch."""
    data: str
    """A fingerprint of all the step's samples, in order."""
    leaving: bool
    """Whether any worker was asked to stop here."""
    saving: bool
    """Whether any worker wishes a checkpoint here."""
    mirroring: bool
    """Whether any worker wishes the state to be mirrored here."""
    skipped: tuple[int, ...]
    """Micro-batches that were left out, for their loss or gradient was not finite."""
    spike: bool
    """Whether the loss was a spike, and the update was not made."""
    unchecked: str = ""
    """Why a recheck that was due was left out, if one was."""


@dataclass(frozen=True)
class Evaluation:
    loss: float
    """Mean over all that was asked, in nats."""
    tokens: int
    """How much was asked."""
    not_finite: int
    """Micro-batches whose loss was not finite: then the mean is infinite."""
    spread: float
    effective_rank: float
    """Of the features of up to 512 samples; see `foundray.training.evaluating.collapse`."""


class NotOnce(RuntimeError):
    """A micro-batch was computed by nobody or twice: the step is not the fixed one, and is dropped before its update.

    `step` is how many others came before it.
    """

    def __init__(self, step: int, times: list[int]):
        super().__init__(f"the micro-batches of step {step + 1} were computed {times} times")


class Overflow(RunFailed):
    """No micro-batch of the step that comes after `step` others had a finite loss and gradient."""

    def __init__(self, step: int, index: int):
        super().__init__(f"no micro-batch of step {step + 1} has a loss and a gradient that are finite and fit the sum")
        self.step, self.index = step, index
