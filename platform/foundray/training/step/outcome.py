"""The results of a step and of an evaluation, and the reasons why a step has none."""

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
    """Fingerprint of all samples of the step, in order."""
    leaving: bool
    """Whether any worker was asked to stop after this step."""
    saving: bool
    """Whether any worker requests a checkpoint after this step."""
    mirroring: bool
    """Whether any worker requests that the state be replicated after this step."""
    skipped: tuple[int, ...]
    """Micro-batches left out because their loss or gradient was not finite."""
    spike: bool
    """Whether the loss was a spike, so that the update was left out."""
    rechecked: bool | None = None
    """If a recheck was due: whether it took place, with several workers, and all passed."""
    unchecked: str = ""
    """Why a recheck that was due did not happen; empty otherwise."""


@dataclass(frozen=True)
class SourceLoss:
    """The loss on one source's samples of an evaluation."""

    source: int
    """Index in `data.sources`."""
    loss: float
    """Mean over its predicted targets, in nats; infinite if a loss was not finite."""
    tokens: int
    """Number of its predicted targets."""


@dataclass(frozen=True)
class Evaluation:
    loss: float
    """Mean over all predicted targets, in nats."""
    tokens: int
    """Number of predicted targets."""
    not_finite: int
    """Number of micro-batches whose loss was not finite; if any, the mean is infinite."""
    spread: float
    effective_rank: float
    """Of the features of up to 512 samples: see `foundray.training.evaluating.collapse`."""
    sources: tuple[SourceLoss, ...] = ()
    """The loss on each source's samples, if there are several sources and some of its samples were evaluated."""


class NotOnce(RuntimeError):
    """A micro-batch was computed by no worker or twice, so the step is dropped before its update.

    `step` is the number of steps before it.
    """

    def __init__(self, step: int, times: list[int]):
        super().__init__(f"the micro-batches of step {step + 1} were computed {times} times")


class Overflow(RunFailed):
    """No micro-batch of the step after `step` others had a finite loss and gradient."""

    def __init__(self, step: int, index: int):
        super().__init__(f"no micro-batch of step {step + 1} has a loss and a gradient that are finite and fit the sum")
        self.step, self.index = step, index
