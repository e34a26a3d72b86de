"""What takes less memory for a micro-batch: recomputed layers, with the same bits, and a loss in chunks of units."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from tests.unit.memory import allocated
from tests.unit.objectives.specs import SPECS
from torch.utils._python_dispatch import TorchDispatchMode

from foundray.host.devices import Cpu, Device
from foundray.model.recomputing import ATTENTION, PRODUCTS
from foundray.spec import Spec
from foundray.testing.groups import run_group
from foundray.testing.specs import make_spec
from foundray.testing.trainers import make_trainer, micro_batch, train_steps
from foundray.training.collectives.group import Group
from foundray.training.footprint import footprint

RECOMPUTING = ("none", "selective", "full")
UNLIKE = ("next_token", "masked_token", "joint_embedding", "masked_pixel", "contrastive", "next_action")
"""Objectives that differ most; the others are tried in make test-all."""
CPU = Cpu()
SEPARABLE = [kind for kind, spec in SPECS.items() if spec.objective.build().separable]
LARGE = 20_000
"""Ids of a vocabulary whose logits take most of a small model's memory."""


def changed(spec: Spec, **fields: Any) -> Spec:
    """The spec with other fields of `train`."""
    return spec.model_copy(update={"train": spec.train.model_copy(update=fields)})


# Layers


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=() if kind in UNLIKE else pytest.mark.thorough) for kind in SPECS])
def test_recomputed_layers_give_the_same_bits(kind: str) -> None:
    found = {how: train_steps(Group(), changed(SPECS[kind], recompute=how), 2) for how in RECOMPUTING}
    assert found["selective"] == found["full"] == found["none"]


@pytest.mark.parametrize("model", [{"act": "gelu", "norm": "ln", "bias": True}, {"rope_theta": None}])
def test_other_layers_too(model: dict[str, Any]) -> None:
    spec = make_spec(**{f"model__{name}": value for name, value in model.items()})
    found = {how: train_steps(Group(), changed(spec, recompute=how), 2) for how in RECOMPUTING}
    assert found["selective"] == found["full"] == found["none"]


def test_workers_and_teams_may_recompute_selectively() -> None:
    spec = make_spec(train__recompute="selective")
    alone = train_steps(Group(), make_spec(), 2)
    assert set(map(str, run_group(3, train_steps, spec, 2, 1))) == {str(alone)}
    assert set(map(str, run_group(4, train_steps, spec, 2, 3, None, "cpu", 2))) == {str(alone)}


class Counting(TorchDispatchMode):
    """Counts the operations that are computed, which those that are taken from what was kept are not."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Any] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        self.counts[function] += 1
        return function(*arguments, **(options or {}))


def test_selective_computes_no_product_and_no_attention_again() -> None:
    counts = {}
    for how in RECOMPUTING:
        spec = make_spec(train__recompute=how)
        trainer = make_trainer(spec)
        with Counting() as counting:
            trainer.backward(micro_batch(spec, 1), 0, 1)
        counts[how] = counting.counts
    costly = {how: sum(count for one, count in found.items() if one in PRODUCTS | ATTENTION) for how, found in counts.items()}
    assert costly["selective"] == costly["none"]
    # Per layer: queries, keys, values, attention, its output, gate and up; the last product is not needed again.
    assert costly["full"] == costly["none"] + 7 * spec.model.depth
    assert sum(counts["selective"].values()) > sum(counts["none"].values())


def test_each_keeps_less_memory() -> None:
    peaks = []
    for how in RECOMPUTING:
        spec = make_spec(train__recompute=how, model__depth=8, model__width=64, model__context=128)
        trainer, payload = make_trainer(spec), micro_batch(spec, 1)
        peaks.append(allocated(lambda trainer=trainer, payload=payload: trainer.backward(payload, 0, 1))[1])
    none, selective, full = peaks
    assert selective < 0.8 * none
    assert full < 0.6 * selective


# The loss


@pytest.mark.parametrize("kind", SEPARABLE)
def test_a_loss_in_chunks_is_that_of_all_units_to_rounding(kind: str) -> None:
    """A chunk as large as a micro-batch has its bits; one of 7 units crosses the borders of samples."""
    spec = SPECS[kind]
    whole, chunked, one = (gradient(changed(spec, loss_chunk=chunk)) for chunk in (None, 7, 10**6))
    assert one[0] == whole[0] and torch.equal(one[1], whole[1])
    assert chunked[0] == pytest.approx(whole[0], rel=1e-5)
    assert torch.allclose(chunked[1], whole[1], rtol=1e-3, atol=1e-5 * float(whole[1].abs().max()))
    sample = gradient(changed(spec, loss_chunk=7), position=2)[1]
    assert not torch.allclose(sample, whole[1], rtol=1e-3, atol=1e-5 * float(whole[1].abs().max())), "of other samples"


def gradient(spec: Spec, device: Device = CPU, position: int = 1) -> tuple[float, torch.Tensor]:
    """A micro-batch's loss and gradient, after a step that leaves no head at zero."""
    trainer = make_trainer(spec)
    trainer.traits = device
    torch.manual_seed(1)
    trainer.flat.buffer.add_(torch.randn_like(trainer.flat.buffer), alpha=0.02)
    loss, _ = trainer.backward(micro_batch(spec, position), 0, position)
    return float(loss), trainer.flat.gradient.clone()


@pytest.mark.parametrize("kind", ["next_token", "masked_token", "joint_embedding", "next_action"])
def test_a_loss_in_chunks_has_the_same_bits_for_any_workers_and_teams(kind: str) -> None:
    """Also with what layers recompute, and also at evaluations, whose loss is among the results."""
    spec = changed(SPECS[kind], loss_chunk=7, recompute="selective")
    alone = train_steps(Group(), spec, 2)
    assert all(map(math.isfinite, alone[1]))
    assert set(map(str, run_group(3, train_steps, spec, 2, 1))) == {str(alone)}
    for teams, size in ((1, 2), (1, 3), (2, 2)):
        assert set(map(str, run_group(teams * size, train_steps, spec, 2, 3, None, "cpu", size))) == {str(alone)}, (teams, size)


def test_a_loss_in_chunks_takes_the_memory_of_a_chunk() -> None:
    """As much less as the footprint says, to a tenth."""
    peaks, predicted = {}, {}
    for chunk in (None, 64):
        spec = make_spec(train__micro_batch_size=16, train__loss_chunk=chunk)
        trainer, payload = make_trainer(spec, vocabulary=LARGE), micro_batch(spec, 1)
        peaks[chunk] = allocated(lambda trainer=trainer, payload=payload: trainer.backward(payload, 0, 1))[1]
        predicted[chunk] = footprint(spec, LARGE, on_gpu=False).outputs
    logits = 16 * 32 * LARGE * 4
    assert peaks[None] > 2 * logits, "all logits are there without chunks"
    assert peaks[64] < logits, "and never with them"
    assert peaks[None] - peaks[64] == pytest.approx(predicted[None] - predicted[64], rel=0.1)


class InBf16(Cpu):
    """A CPU that computes matrix products in bf16, as GPUs do."""

    def low_precision(self) -> AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16)


def in_bf16(spec: Spec) -> torch.Tensor:
    return gradient(spec, InBf16())[1]


def test_in_bf16_recomputed_layers_have_the_same_bits() -> None:
    plain, selective, full = (in_bf16(make_spec(train__recompute=how)) for how in RECOMPUTING)
    assert torch.equal(selective, plain) and torch.equal(full, plain)
    assert not torch.equal(plain, gradient(make_spec())[1])


def test_in_bf16_the_gradients_of_chunks_are_added_in_fp32() -> None:
    """The gradient is as near to that in fp32 as that of all units at once."""
    spec = make_spec(train__micro_batch_size=16)
    right = gradient(spec)[1]
    whole, chunked = (float((in_bf16(changed(spec, loss_chunk=chunk)) - right).norm()) for chunk in (None, 2))
    assert chunked < 1.1 * whole


def test_an_evaluation_in_chunks_takes_the_memory_of_a_chunk() -> None:
    peaks = []
    for chunk in (None, 64):
        spec = make_spec(train__micro_batch_size=16, train__loss_chunk=chunk)
        trainer, payload = make_trainer(spec, vocabulary=LARGE), micro_batch(spec, 1)
        with torch.no_grad():
            peaks.append(allocated(lambda trainer=trainer, payload=payload: trainer.loss(payload, 0, 1))[1])
    assert peaks[1] < 0.3 * peaks[0]
