"""Small models with random weights, and batches for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from foundray.contract import Objective, Units, UnitShape, load_objective
from foundray.data.stream.batch import packed
from foundray.model.model import Batch, Model
from foundray.spec import ModelConfig

SHAPE = ModelConfig(width=64, depth=2, heads=4, context=16, hidden=96)
CLASSES = 50
CONFIG: dict[str, Any] = {
    "vocab_size": CLASSES, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "tie_word_embeddings": False, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0,
    "attn_implementation": "eager",
}  # fmt: skip
"""The same for Hugging Face's models."""
NEXT = load_objective("next_token", {})


def batch_of(objective: Objective, rows: Any, opener: int = -1, seed: int = 0) -> Batch:
    """Plan rows of ids, in which a document begins at each `opener`."""
    rng = np.random.default_rng(seed)
    rows = [np.asarray(row, np.int64) for row in rows]
    plans = [objective.plan(Units(row, np.cumsum(row == opener), UnitShape(classes=CLASSES)), rng) for row in rows]
    return Batch.load(packed(plans), torch.device("cpu"))


def random_model(objective: Objective, shape: ModelConfig = SHAPE) -> Model:
    """A model with weights far from zero, so that a wrong formula shows."""
    torch.manual_seed(0)
    model = Model(shape, objective, UnitShape(classes=CLASSES))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.25 + (parameter.dim() < 2)
    return model


def mean_loss(model: Model, objective: Objective, batch: Batch) -> torch.Tensor:
    """Loss per unit that is asked for."""
    answers = model(batch)
    sums = [objective.loss(answers[head], *target_and_mask) for head, target_and_mask in batch.targets.items()]
    return sum(loss for loss, _ in sums) / sum(count for _, count in sums)


def tokens(rows: int, length: int, lowest: int = 0) -> torch.Tensor:
    """Random ids [rows, length], the same at every call."""
    return torch.randint(lowest, CLASSES, (rows, length), generator=torch.Generator().manual_seed(1))
