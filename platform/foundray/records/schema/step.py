"""A line of metrics.jsonl."""

from __future__ import annotations

from typing import Annotated

from foundray.records.schema.line import Line
from foundray.records.traits import Measure


class Step(Line):
    """A finished step. A step repeated after a fault has one line each time; the last one counts."""

    step: int
    """Counted from 1."""
    tokens: int
    """Positions predicted so far, over all steps."""
    loss: Annotated[float, Measure("loss", "Training loss of the last step, such as nats per token")]
    """Mean over the step's predictions before the update, in the unit of its objective, such as nats per token."""
    grad_norm: Annotated[float, Measure("gradient_norm", "Norm of the last step's whole gradient, before clipping", least=0)]
    """Norm of the whole gradient before clipping."""
    lr: float
    """Learning rate of the update."""
    step_s: float
    """Duration in seconds."""
    data_wait_s: float
    """The part of `step_s` in which rank 0 waited for data."""
    copy_s: float
    """Seconds before the step, for copies of the state."""
    tokens_per_s: float
    """Throughput of this step."""
    workers: int
    """Workers that computed the step."""
    takers: list[tuple[int, int]]
    """Which worker computed which micro-batches: [rank, count] pairs, in micro-batch order. If these are more than 64, each
    worker's count, by rank; if there are more than 64 workers, only every 100th step has it, and the others have none."""
    skipped: list[int]
    """Micro-batches left out because their loss or gradient was not finite."""
    spike: bool
    """Whether the loss was a spike, so that the update was not made."""
    data: str
    """Fingerprint of all samples, in order."""
    rechecked: bool | None = None
    """In a step in which a recheck is due: whether several workers recomputed one micro-batch, and all got the same bits."""
    mirrored: int | None = None
    """The last step whose state another node's memory also holds; none if a worker is alone."""
    passed_over: int
    """Data offset: steps by which its data are ahead of its number, after roll-backs."""
    lineage: str = ""
    """Id of the last cut (roll-back or loss of trust) before the step was computed; empty before the first."""


MEASURES: dict[str, Measure] = {
    name: trait for name, info in Step.model_fields.items() for trait in info.metadata if isinstance(trait, Measure)
}
"""Fields of a step that are measures."""
