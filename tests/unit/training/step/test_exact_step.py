"""The sum, the update and the step give the same bits, however the work is divided among workers."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from foundray.spec.optimizers import KINDS
from foundray.testing.groups import run_group
from foundray.testing.specs import make_spec
from foundray.testing.trainers import make_model, make_trainer, micro_batch, train_steps
from foundray.training.collectives.group import Group
from foundray.training.step.blocks import BLOCK, Blocks, shard_bounds, shard_of
from foundray.training.step.flat import FlatParameters, Layout
from foundray.training.step.gradient_sum import SCALE, ExactSum, RoundedSum, overflows
from foundray.training.step.kernels import unfit
from foundray.training.step.optimizers.shard import ShardOptimizer, state_bytes_per_block, state_tensors
from foundray.training.step.outcome import Overflow
from foundray.training.step.schedule import lr_factor
from foundray.training.step.trainer import row_sums


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_workers_and_any_share_give_the_same_bits(kind: str) -> None:
    spec = make_spec(optimizer__kind=kind)
    alone = train_steps(Group(), spec, 4, None)
    for world, skew in ((2, None), (3, 1)) if kind == "adamw8bit" else ((3, 1),):
        assert set(map(str, run_group(world, train_steps, spec, 4, skew))) == {str(alone)}
    assert train_steps(Group(), make_spec(optimizer__kind=kind, seed=8), 4, None)[0] != alone[0]


def test_rounded_sums_agree_to_rounding_only() -> None:
    exact = train_steps(Group(), make_spec(), 4, None)
    rounded = run_group(3, train_steps, make_spec(train__exact=False), 4, 1)
    assert {sha for sha, _ in rounded} != {exact[0]}
    assert np.allclose(rounded[0][1], exact[1], rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_three_workers_continues_on_two_and_on_one(kind: str, tmp_path: Path) -> None:
    spec = make_spec(optimizer__kind=kind)
    whole = train_steps(Group(), spec, 6, None)[0]
    run_group(3, train_steps, spec, 2, None, str(tmp_path))
    run_group(2, train_steps, spec, 2, None, str(tmp_path))
    assert train_steps(Group(), spec, 2, None, str(tmp_path))[0] == whole
    names = [sorted(p.name for p in folder.glob("*.safetensors")) for folder in sorted(tmp_path.iterdir())]
    assert list(map(len, names)) == [3, 2, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_starts_again_after_some_steps_has_the_state_of_a_new_one(kind: str) -> None:
    """All workers may lose each other before any state is safe. The padding counts: checkpoints hold it."""
    spec = make_spec(optimizer__kind=kind, objective={"kind": "joint_embedding"})
    new, again = make_trainer(spec), make_trainer(spec)
    for step in range(3):
        again.step(step, [(i, micro_batch(spec, i)) for i in range(5 * step, 5 * step + 5)])
    for trainer in (new, again):
        trainer.take_part(Group())
        trainer.initialise()
    states = [trainer.state_shard() for trainer in (new, again)]
    assert {name for name in states[0] if not torch.equal(states[0][name], states[1][name])} == set()


def test_the_sum_is_the_true_sum() -> None:
    """Relative error below 1e-6 against float64, in any order, over gradients of very different sizes."""
    torch.manual_seed(0)
    elements = 300 * BLOCK
    gradients = [torch.randn(elements) * 10.0 ** random.Random(i).uniform(-5, 0) for i in range(16)]
    totals = []
    for order in (list(range(16)), random.Random(1).sample(range(16), 16)):
        subject = ExactSum(elements, len(gradients), torch.device("cpu"))
        for i in order:
            assert not overflows(gradients[i], subject.limit)
            subject.add(gradients[i])
        totals.append(subject.as_float(subject.total, 1.0))
    assert torch.equal(*totals)
    true = torch.stack(gradients).double().sum(0)
    assert (totals[0].double() - true).norm() / true.norm() < 1e-6
    rounded = [RoundedSum(elements, 16, torch.device("cpu")) for _ in range(2)]
    for subject, order in zip(rounded, (range(16), reversed(range(16))), strict=True):  # type: ignore[assignment]
        for i in order:
            subject.add(gradients[i])
    assert not torch.equal(rounded[0].total, rounded[1].total)  # the comparison can fail


@pytest.mark.parametrize("kind", [ExactSum, RoundedSum])
def test_a_sum_that_is_cleared_starts_again(kind: type[ExactSum | RoundedSum]) -> None:
    """Whether something is added to it then, or nothing, as if others take all micro-batches of a step."""
    subject = kind(3 * BLOCK, 2, torch.device("cpu"))
    first, second = torch.randn(2, 3 * BLOCK).double().mul(2**20).round().div(2**20).float()
    for _ in range(2):
        subject.clear()
        subject.add(first)
        subject.add(second)
        assert torch.equal(subject.as_float(subject.summed().clone(), 3.0), (first + second) * 3.0)
    subject.clear()
    assert torch.equal(subject.summed(), torch.zeros_like(subject.total))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 2.0**62 / SCALE, -(2.0**62) / SCALE])
def test_overflow_is_detected(value: float) -> None:
    subject = ExactSum(BLOCK, 2, torch.device("cpu"))
    gradient = torch.zeros(BLOCK)
    assert not overflows(gradient, subject.limit)
    gradient[7] = value
    assert overflows(gradient, subject.limit)


def test_the_largest_gradients_allowed_do_not_wrap_around() -> None:
    subject = ExactSum(BLOCK, 8, torch.device("cpu"))
    gradient = torch.full([BLOCK], subject.limit)
    assert not overflows(gradient, subject.limit)
    for _ in range(8):
        subject.add(gradient)
    assert (subject.as_float(subject.total, 1.0) == 8 * subject.limit).all()


def test_a_step_that_overflows_names_its_micro_batch() -> None:
    spec = make_spec()
    trainer = make_trainer(spec, Group())
    with torch.no_grad():
        trainer.model.get_submodule("lm_head").weight.fill_(float("inf"))
    with pytest.raises(Overflow, match="no micro-batch of step 1"):
        trainer.step(0, [(i, micro_batch(spec, i)) for i in range(spec.train.micro_batches)])


def test_squares_of_a_block_are_summed_alike_however_many_blocks_there_are() -> None:
    values = torch.randn(1000, BLOCK)
    sums = row_sums(values.clone())
    assert torch.allclose(sums, values.double().sum(1).float(), atol=1e-4)
    assert torch.equal(torch.cat([row_sums(part.clone()) for part in values.split([1, 6, 993])]), sums)


def test_an_operation_that_has_no_deterministic_kernel_is_named() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        torch.zeros(3).put_(torch.tensor([1]), torch.ones(1))
    except RuntimeError as error:
        said = unfit(error)
    finally:
        torch.use_deterministic_algorithms(False)
    assert str(said).startswith("train.exact: put_ has no deterministic kernel on this GPU")
    assert unfit(RuntimeError("CUDA error: an illegal memory access was encountered")) is None


def test_layout_covers_everything_once_in_whole_blocks() -> None:
    model = make_model(make_spec())
    layout = Layout.of(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    flat = FlatParameters(model, layout, 3)
    assert set(before) == {entry.name for entry in layout.entries}
    assert all(torch.equal(flat.named()[name], tensor) for name, tensor in before.items())
    assert all(p.data_ptr() == flat.named()[name].data_ptr() for name, p in model.named_parameters())
    for room in ([1.0], [1.0] * 2, [1.0] * 3, [1.0] * 7, [1.0] * 1000, [3.0, 1.0, 8.0]):
        bounds = shard_bounds(layout.blocks, room)
        shards = [shard_of(bounds, rank, layout.blocks) for rank in range(len(room))]
        assert [block for shard in shards for block in shard] == list(range(layout.blocks))
        for shard in shards:
            positions = [position for run, _ in layout.spans(Blocks((shard,))) for position in run]
            assert positions == list(range(len(shard)))
    decayed = {block for run, scaling in layout.spans(Blocks((range(layout.blocks),))) if scaling.weight_decay for block in run}
    for entry in layout.entries:
        assert all((block in decayed) == (len(entry.shape) == 2) for block in range(entry.first, entry.first + entry.blocks))


@pytest.mark.parametrize("kind", KINDS)
def test_state_in_bytes_and_back(kind: str) -> None:
    spec = make_spec(optimizer__kind=kind)
    model = make_model(spec)
    layout = Layout.of(model)
    shard = Blocks((range(3, layout.blocks - 1),))
    parameters = torch.randn(len(shard) * BLOCK)
    optimizers = [ShardOptimizer(spec.optimizer, layout, shard, values) for values in (parameters, parameters.clone())]
    gradient = torch.randn(len(parameters))
    optimizers[0].step(1, 1e-3, gradient)
    tensors = optimizers[0].tensors()
    assert sum(t.numel() * t.element_size() for t in tensors.values()) == len(shard) * state_bytes_per_block(kind)
    assert all(len(tensors[name]) == len(shard) * width for name, (_, width) in state_tensors(kind).items())
    optimizers[1].load(tensors)
    assert all(torch.equal(t, tensors[name]) for name, t in optimizers[1].tensors().items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_span_that_is_too_large_for_one_call_is_cut_and_the_bits_are_the_same(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of 2^30 elements, lowered to three blocks."""
    spec = make_spec(optimizer__kind=kind)
    layout = Layout.of(make_model(spec))
    shard, longest, after = Blocks((range(2, layout.blocks - 1),)), [], []
    rng = torch.Generator().manual_seed(1)
    values, *gradients = torch.randn(4, len(shard) * BLOCK, generator=rng)
    for largest in (2**30, 3 * BLOCK):
        monkeypatch.setattr("foundray.training.step.optimizers.shard.LARGEST", largest)
        weights = values.clone()
        optimizer = ShardOptimizer(spec.optimizer, layout, shard, weights)
        longest.append(max(elements.stop - elements.start for elements, _ in optimizer.spans))
        for number, gradient in enumerate(gradients, 1):
            optimizer.step(number, 1e-3, gradient)
        after.append({"weights": weights, **optimizer.tensors()})
    assert longest[0] > longest[1] == 3 * BLOCK
    assert all(torch.equal(after[0][name], after[1][name]) for name in after[0])


def test_8_bit_state_is_at_most_2_1_bytes_a_parameter() -> None:
    spec = make_spec(model__width=128, model__depth=4, model__heads=4, model__context=64)
    model = make_model(spec)
    layout = Layout.of(model)
    optimizer = ShardOptimizer(spec.optimizer, layout, Blocks((range(layout.blocks),)), torch.zeros(layout.blocks * BLOCK))
    size = sum(t.numel() * t.element_size() for t in optimizer.tensors().values())
    assert size / sum(p.numel() for p in model.parameters()) <= 2.1


def test_adamw_is_torchs_own() -> None:
    """One worker's exact step against a plain loop with torch.optim.AdamW, clipping, and the mean loss."""
    spec = make_spec(optimizer__kind="adamw", optimizer__clip=0.5)
    trainer = make_trainer(spec, Group())
    plain = make_trainer(spec, Group())
    matrices = [p for p in plain.model.parameters() if p.dim() > 1]
    vectors = [p for p in plain.model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    update = torch.optim.AdamW(groups, betas=spec.optimizer.betas)
    for step in range(3):
        batch = [(step * 5 + i, micro_batch(spec, step * 5 + i)) for i in range(5)]
        trainer.step(step, batch)
        losses = [plain.loss(payload, step, 0) for _, payload in batch]
        plain.flat.gradient.zero_()
        (torch.stack([loss for loss, _ in losses]).sum() / sum(int(n) for _, n in losses)).backward()
        nn.utils.clip_grad_norm_(plain.model.parameters(), 0.5)
        for group in update.param_groups:
            group["lr"] = spec.optimizer.lr * lr_factor(spec.schedule, step, spec.train.steps)
        update.step()
    for (name, ours), theirs in zip(trainer.model.named_parameters(), plain.model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-5), name


def test_schedules() -> None:
    from foundray.spec import ScheduleConfig

    wsd = [lr_factor(ScheduleConfig(kind="wsd", warmup=0.1, decay=0.4), s, 100) for s in range(100)]
    assert wsd[0] == pytest.approx(0.1)
    assert set(wsd[9:61]) == {1.0}
    assert wsd[80] == pytest.approx(0.5)
    assert wsd[99] == pytest.approx(1 / 40)
    cosine = [lr_factor(ScheduleConfig(kind="cosine", warmup=0.1), s, 100) for s in range(100)]
    assert cosine[10] == 1.0
    assert cosine[55] == pytest.approx(0.5)
    assert all(a >= b for a, b in itertools.pairwise(cosine[10:]))
    assert {lr_factor(ScheduleConfig(kind="constant", warmup=0), s, 100) for s in range(100)} == {1.0}
    for kind in ("wsd", "cosine", "constant"):
        assert 0 < lr_factor(ScheduleConfig(kind=kind, warmup=1.0, decay=0.0), 0, 1) <= 1  # type: ignore[arg-type]


def test_recomputed_activations_give_the_same_bits_and_follow_a_lack_of_memory() -> None:
    spec = make_spec()
    plenty, scarce = make_trainer(spec, Group()), make_trainer(spec, Group())
    loss_of, asked = scarce.loss, []

    def lacking(payload: bytes, step: int, index: int) -> tuple[torch.Tensor, ...]:
        asked.append(index)
        if len(asked) == 2:
            raise torch.OutOfMemoryError("no memory for the second micro-batch")
        return loss_of(payload, step, index)

    scarce.loss = lacking  # type: ignore[method-assign]
    for trainer in (plenty, scarce):
        trainer.step(0, [(i, micro_batch(spec, i)) for i in range(spec.train.micro_batches)])
    assert scarce.model.model.recompute == "full"
    assert plenty.model.model.recompute == "none"
    assert asked == [0, 1, 1, 2, 3, 4]
    assert torch.equal(plenty.flat.buffer, scarce.flat.buffer)
