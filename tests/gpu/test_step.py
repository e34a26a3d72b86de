"""The exact step on a GPU: the same bits each time in bf16, however the work is divided."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.gpu.devices import needs_gpu
from torch.nn import functional as F

from foundray.contract import Units
from foundray.data.stream.batch import packed
from foundray.errors import InputError
from foundray.model.model import initialise
from foundray.model.recomputing import Recompute
from foundray.runs.checkpoints import Checkpoint
from foundray.spec import Spec
from foundray.spec.optimizers import KINDS
from foundray.storage import Store
from foundray.testing.groups import run_group
from foundray.testing.specs import make_spec
from foundray.testing.trainers import make_model, make_trainer, micro_batch, save_checkpoint, train_steps
from foundray.training.checkpoints.checkpoint import load
from foundray.training.collectives.group import Group
from foundray.training.step.blocks import BLOCK
from foundray.training.step.optimizers.shard import state_bytes_per_block
from foundray.training.step.outcome import Overflow
from foundray.training.step.trainer import Trainer
from foundray_objectives.next_token import NextToken

pytestmark = needs_gpu

LARGE = {"model__width": 256, "model__depth": 3, "model__heads": 4, "model__context": 512, "train__micro_batch_size": 8}
"""Large enough that kernels divide their work among many threads, whose sums may finish in any order."""
IMAGE = {
    "data__modality": {"kind": "image", "size": 32, "patch": 4, "channels": 1},
    "data__sources": [{"path": "x", "format": "files"}],
    "model__context": 64, "model__width": 128, "model__depth": 3, "train__micro_batch_size": 32,
}  # fmt: skip
OBJECTIVES: dict[str, dict[str, Any]] = {
    "next_token": LARGE,
    "masked_token": LARGE | {"objective": {"kind": "masked_token"}},
    "span_corruption": LARGE | {"objective": {"kind": "span_corruption"}},
    "masked_pixel": IMAGE | {"objective": {"kind": "masked_pixel"}},
    "next_patch": IMAGE | {"objective": {"kind": "next_patch"}},
    "joint_embedding of blocks": IMAGE | {"objective": {"kind": "joint_embedding", "masking": "drop"}},
    "joint_embedding of spans": IMAGE | {"objective": {"kind": "joint_embedding"}},
    "contrastive": IMAGE | {"objective": {"kind": "contrastive"}},
    "vicreg": IMAGE | {"objective": {"kind": "vicreg"}},
}


def on_gpu(group: Group, spec: Spec, count: int, skew: int | None) -> tuple[str, list[float]]:
    return train_steps(group, spec, count, skew, device="cuda")


@pytest.fixture(autouse=True)
def memory() -> None:
    """Free the GPU's memory before each test."""
    gc.collect()
    torch.cuda.empty_cache()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_same_bits_each_time(name: str) -> None:
    spec = make_spec(**OBJECTIVES[name])
    first = on_gpu(Group(), spec, 3, None)
    assert all(on_gpu(Group(), spec, 3, None) == first for _ in range(3))
    assert on_gpu(Group(), make_spec(**OBJECTIVES[name], seed=8), 3, None)[0] != first[0]


def one_document(spec: Spec, position: int) -> bytes:
    """Samples of the same length with one document each: attention then needs no mask."""
    rng = np.random.default_rng([spec.seed, position])
    shape = spec.unit_shape(40)
    objective = spec.objective.build()
    samples = [rng.integers(1, 40, objective.reads(spec.model.context) + 1) for _ in range(spec.train.micro_batch_size)]
    return packed([objective.plan(Units(x, None, shape), rng) for x in samples])


@pytest.mark.parametrize("heads", [2, 4, 16])
def test_the_same_bits_without_a_mask(heads: int) -> None:
    """These use other attention kernels: heads of 128, 64 and 16."""
    spec = make_spec(**LARGE | {"model__heads": heads, "model__context": 1024})

    def found() -> torch.Tensor:
        trainer = make_trainer(spec, Group(), "cuda")
        for step in range(3):
            trainer.step(step, [(at, one_document(spec, at)) for at in range(step * 5, step * 5 + 5)])
        return trainer.flat.buffer

    first = found()
    assert all(torch.equal(found(), first) for _ in range(4))


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_workers_and_any_share_give_the_same_bits(kind: str) -> None:
    """The workers share one GPU."""
    spec = make_spec(**LARGE, optimizer__kind=kind)
    alone = on_gpu(Group(), spec, 4, None)
    for world, skew in ((2, None), (3, 1)):
        assert set(map(str, run_group(world, on_gpu, spec, 4, skew))) == {str(alone)}


def test_shards_of_a_few_blocks_give_the_same_bits() -> None:
    spec = make_spec(model__width=16, model__depth=1, optimizer__clip=0.1)
    alone = on_gpu(Group(), spec, 4, None)
    assert set(map(str, run_group(3, on_gpu, spec, 4, 1))) == {str(alone)}


COMPILED = LARGE | {"train__compile": True}


def compiled_elsewhere(group: Group, spec: Spec, cache: str) -> tuple[str, list[float]]:
    """Do three steps with empty compile caches, after a step with another batch size."""
    os.environ |= {"TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor", "TRITON_CACHE_DIR": f"{cache}/triton"}
    smaller = make_spec(**COMPILED | {"train__micro_batch_size": 5})
    make_trainer(smaller, group, "cuda").step(0, [(at, micro_batch(smaller, at)) for at in range(5)])
    return on_gpu(group, spec, 3, None)


def test_what_is_compiled_gives_the_same_bits_in_every_process(tmp_path: Path) -> None:
    """And it agrees with uncompiled code up to rounding."""
    spec = make_spec(**COMPILED)
    here = on_gpu(Group(), spec, 3, None)
    assert on_gpu(Group(), spec, 3, None) == here
    assert run_group(1, compiled_elsewhere, spec, str(tmp_path)) == [here]
    plain = on_gpu(Group(), make_spec(**LARGE), 3, None)
    assert plain[0] != here[0]
    assert np.allclose(plain[1], here[1], rtol=1e-3)


def test_rounded_sums_agree_to_rounding() -> None:
    exact = on_gpu(Group(), make_spec(**LARGE), 6, None)
    rounded = on_gpu(Group(), make_spec(**LARGE, train__exact=False), 6, None)
    assert np.allclose(rounded[1], exact[1], rtol=1e-3)


def test_bf16_follows_the_curve_of_fp32() -> None:
    spec = make_spec(model__width=64, model__depth=3, model__heads=4, train__steps=12)
    (_, here), (_, cpu) = on_gpu(Group(), spec, 12, None), train_steps(Group(), spec, 12, None)
    assert here != cpu
    assert np.allclose(here, cpu, rtol=5e-3)


class Transposed(NextToken):
    """Asks for cross-entropy over [B, classes, T], which torch has no deterministic kernel for."""

    def loss(
        self, prediction: torch.Tensor, target: torch.Tensor, loss_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return F.cross_entropy(prediction.float().transpose(1, 2), target, reduction="sum"), loss_mask.sum()


def test_an_objective_without_deterministic_kernels_is_refused() -> None:
    spec = make_spec()
    payloads = [(at, micro_batch(spec, at)) for at in range(5)]
    trainer = Trainer(spec, make_model(spec).to("cuda"), Transposed())
    with pytest.raises(InputError, match=r"train.exact: nll_loss2d\w* has no deterministic kernel .* set train.exact: false"):
        trainer.step(0, payloads)
    rounding = make_spec(train__exact=False)
    Trainer(rounding, make_model(spec).to("cuda"), Transposed()).step(0, payloads)


def test_a_step_that_overflows_changes_nothing() -> None:
    trainer = make_trainer(make_spec(), Group(), "cuda")
    with torch.no_grad():
        trainer.model.get_submodule("lm_head").weight.fill_(float("inf"))
    before = trainer.flat.buffer.clone()
    with pytest.raises(Overflow, match="no micro-batch of step 1"):
        trainer.step(0, [(i, micro_batch(trainer.spec, i)) for i in range(5)])
    assert torch.equal(trainer.flat.buffer, before)


def test_a_checkpoint_of_a_gpu_is_read_by_a_cpu_and_back(tmp_path: Path) -> None:
    spec = make_spec(optimizer__kind="adamw8bit")
    trainer = make_trainer(spec, Group(), "cuda")
    for step in range(2):
        trainer.step(step, [(at, micro_batch(spec, at)) for at in range(step * 5, step * 5 + 5)])
    save_checkpoint(Store.at(str(tmp_path)), trainer, 2, "f", keep=3)
    for device in ("cpu", "cuda"):
        other = Trainer(spec, make_model(spec).to(device), spec.objective.build())
        assert load(Store.at(str(tmp_path)), other, Checkpoint(2, ""), "f").step == 2
        assert torch.equal(other.flat.buffer.cpu(), trainer.flat.buffer.cpu())
        state = other.state_shard()
        assert all(torch.equal(tensor, state[name]) for name, tensor in trainer.state_shard().items())


def resting_bytes(spec: Spec, blocks: int) -> int:
    """Memory of a worker that is alone, without activations: weights, gradient, exact sum, optimizer state."""
    return blocks * (BLOCK * (4 + 4 + 8) + state_bytes_per_block(spec.optimizer.kind))


def test_memory_is_as_predicted() -> None:
    spec = make_spec(model__width=1024, model__depth=8, model__heads=8)
    before = torch.cuda.memory_allocated()
    trainer = make_trainer(spec, Group(), "cuda")
    needed = resting_bytes(spec, trainer.layout.blocks)
    torch.cuda.reset_peak_memory_stats()
    trainer.step(0, [(at, micro_batch(spec, at)) for at in range(5)])
    assert torch.cuda.memory_allocated() - before < needed * 1.05 + 2**26
    assert torch.cuda.max_memory_allocated() - before < needed * 1.6 + 2**28


def test_recomputing_makes_a_run_fit_into_little_memory() -> None:
    """The bits are the same, in less memory."""
    spec = make_spec(**LARGE | {"train__micro_batch_size": 64, "model__depth": 8, "train__micro_batches": 2})
    payloads = [(at, micro_batch(spec, at)) for at in range(2)]

    def peak(recompute: Recompute) -> tuple[torch.Tensor, int, Recompute]:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        model = make_model(spec)
        initialise(model, spec.seed)
        trainer = Trainer(spec, model.to("cuda"), spec.objective.build())
        trainer.model.model.recompute = recompute
        trainer.step(0, payloads)
        return trainer.flat.buffer.cpu(), torch.cuda.max_memory_reserved(), trainer.model.model.recompute

    plenty, most, recomputed = peak("none")
    assert recomputed == "none"
    some, less, _ = peak("selective")
    _, least, _ = peak("full")
    assert least < 0.7 * most
    assert least < less < most
    assert torch.equal(some, plenty)
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((least + 0.3 * (most - least)) / whole)
    try:
        scarce, _, recomputed = peak("none")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert recomputed == "full"
    assert torch.equal(scarce, plenty)


def test_a_loss_in_chunks_takes_less_memory_and_has_the_same_bits_each_time() -> None:
    """In bf16, beside the loss of all units at once."""

    def peak(chunk: int | None) -> tuple[torch.Tensor, float, int]:
        spec = make_spec(**LARGE | {"train__micro_batches": 2, "train__loss_chunk": chunk})
        trainer = make_trainer(spec, Group(), "cuda", vocabulary=50_000)
        torch.cuda.reset_peak_memory_stats()
        loss = trainer.step(0, [(at, micro_batch(spec, at)) for at in range(2)]).loss
        return trainer.flat.buffer.cpu(), loss, torch.cuda.max_memory_allocated()

    (_, whole_loss, most), (once, loss, least), (again, _, _) = peak(None), peak(512), peak(512)
    assert torch.equal(once, again)
    assert loss == pytest.approx(whole_loss, rel=1e-4)
    assert least < 0.7 * most
