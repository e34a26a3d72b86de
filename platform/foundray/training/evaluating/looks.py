"""A look at what a model predicts: a few fixed validation samples beside their predictions, kept with the run."""

from __future__ import annotations

import base64
import threading
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from foundray.contract import Values
from foundray.errors import FoundrayError
from foundray.model.model import Batch
from foundray.runs.reconstructions import Reconstruction, file_of, packed, unpacked
from foundray.spec import Spec
from foundray.storage import Store
from foundray.training.step.trainer import Trainer

WAIT_SECONDS = 5.0
"""Longest wait for storage to take the file (judgement): the run does not need it."""


class Looks:
    """One worker's share of an evaluation's reconstructions, taken from the forward passes that it makes anyway."""

    def __init__(self, trainer: Trainer, modality: Values, count: int, micro_batches: int):
        """The samples are spread evenly over the evaluation's micro-batches, so that they are the same each time."""
        self.trainer, self.modality = trainer, modality
        self.at: dict[int, list[int]] = {}
        """Numbers of the samples that are taken from each micro-batch, by its position: its first rows, in this order."""
        for number in range(count):
            self.at.setdefault(number * micro_batches // count, []).append(number)
        self.found: dict[int, Reconstruction] = {}

    @classmethod
    def of(cls, spec: Spec, trainer: Trainer, micro_batches: int) -> Looks | None:
        """None if there is nothing to look at: the objective predicts no values, or it is turned off."""
        count = spec.evaluate.reconstructions
        if not trainer.objective.rebuilds or not count:
            return None
        modality = spec.data.modality.build()
        return cls(trainer, modality, count, micro_batches) if isinstance(modality, Values) else None

    def take(self, position: int, batch: Batch | None, hidden: Tensor | None) -> None:
        """Take the samples that are wanted of the micro-batch at `position`, from the encoder's hidden states.

        All workers of a team call this, those without a micro-batch, too.
        """
        own: list[tuple[Batch, Tensor, list[int]]] = []
        if batch is not None and hidden is not None and (numbers := self.at.get(position, [])[: len(batch.x)]):
            own = [(batch.rows(slice(0, len(numbers))), hidden[: len(numbers)], numbers)]
        for one in self.trainer.rounds_of(own):
            some, states, numbers = one or (None, None, [])
            with self.trainer.at_heads(some, states) as entering:
                if some is None or entering is None:
                    continue
                answers = self.trainer.model.heads_of(some, entering)
            for row, number in enumerate(numbers):
                if found := self._one(some, answers, row):
                    self.found[number] = found

    def _one(self, batch: Batch, answers: dict[str, Tensor], row: int) -> Reconstruction | None:
        length = int(batch.valid[row].sum())

        def of_row(tensor: Tensor) -> np.ndarray:
            values = tensor[row, :length]
            found: np.ndarray = (values if values.dtype == torch.bool else values.float()).cpu().numpy()
            return found

        x, (_, loss_mask) = of_row(batch.x), next(iter(batch.targets.values()))
        predicted = self.trainer.objective.rebuilt(x, {head: of_row(one) for head, one in answers.items()}, of_row(loss_mask))
        shown = None
        if (unseen := _unseen(batch, row, length)) is not None:
            shown = self.modality.picture(np.where(unseen[:, None], np.nan, x).astype(np.float32))
        looks = self.modality.picture(x), self.modality.picture(predicted)
        return None if looks[0] is None or looks[1] is None else Reconstruction(looks[0], looks[1], shown)

    def kept(self, run: Store, done: int) -> dict[str, int]:
        """The evaluation's field, after rank 0 has written the file of all workers' samples: all workers call this."""
        mine = base64.b64encode(packed(self.found)).decode()
        texts = self.trainer.group.share(mine)
        found = {number: one for text in texts for number, one in unpacked(base64.b64decode(text)).items()}
        if self.trainer.group.rank == 0 and found:
            _write(file_of(run, done), packed(dict(sorted(found.items()))))
        return {"reconstructions": len(found)} if found else {}


def _unseen(batch: Batch, row: int, length: int) -> np.ndarray | None:
    """The units [T] bool of a sample that are hidden from the model; None if none is."""
    if batch.masked is not None:
        masked: np.ndarray = batch.masked[row, :length].cpu().numpy()
        return masked
    if batch.visible is not None:
        unseen = np.ones(length, bool)
        unseen[batch.visible[row].cpu().numpy()] = False
        return unseen
    return None


def _write(file: Store, content: bytes) -> None:
    """Write the file; storage that refuses or stalls costs the file, and no more than `WAIT_SECONDS`."""

    def write() -> None:
        with suppress(FoundrayError):
            file.write_bytes(content)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    writer.join(WAIT_SECONDS)
