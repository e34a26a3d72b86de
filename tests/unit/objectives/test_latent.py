"""Objectives whose targets are features: a teacher's, or those of a sample's other view."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundray.contract import Units, UnitShape, load_objective
from foundray.errors import InputError
from foundray.runs.checkpoints import Checkpoint
from foundray.storage import Store
from foundray.testing.specs import make_spec
from foundray.testing.trainers import make_trainer, micro_batch, save_checkpoint
from foundray.training.checkpoints.checkpoint import load, load_weights
from foundray.training.collectives.group import Group
from foundray.training.evaluating.collapse import effective_rank, spread
from foundray.training.evaluating.evaluation import evaluate
from foundray.training.step.trainer import Trainer

IMAGE = {"data__modality": {"kind": "image", "size": 16, "patch": 4, "channels": 1}, "model__context": 16}
FILES = {"data__sources": [{"path": "x", "format": "files"}]}
JEPA = {"kind": "joint_embedding", "masking": "drop"}
VECTOR = {"kind": "joint_embedding", "start_momentum": 0.9}


def patches(side: int) -> Units:
    x = np.random.default_rng(0).standard_normal((side * side, 4)).astype(np.float32)
    return Units(x, None, UnitShape(width=4, grid=(side, side)))


def test_targets_are_blocks_and_the_context_sees_none_of_them() -> None:
    objective = load_objective("joint_embedding", {"masking": "drop"})
    for seed in range(30):
        plan = objective.plan(patches(8), np.random.default_rng(seed))
        (target,) = plan.targets
        assert plan.visible is not None
        assert target.loss_mask is not None
        assert target.values is None, "the teacher gives them"
        assert len(plan.visible) == 26, "40 % of 64, so that all samples are of one shape"
        assert not target.loss_mask[plan.visible].any()
        assert 8 <= target.loss_mask.sum() <= 38
        grid = target.loss_mask.reshape(8, 8)
        assert max(grid.sum(0).max(), grid.sum(1).max()) >= 3, "blocks, not scattered units"


def test_masked_spans() -> None:
    objective = load_objective("joint_embedding", {"ratio": 0.5, "span": 5})
    plan = objective.plan(Units(np.arange(41), None, UnitShape(classes=50)), np.random.default_rng(0))
    (target,) = plan.targets
    assert len(plan.units) == 40, "the next sample's first unit is not looked at"
    assert plan.masked is not None
    assert np.array_equal(target.loss_mask, plan.masked)
    assert plan.masked.sum() == 20
    assert np.abs(np.diff(plan.masked.astype(int))).sum() < 12, "spans, not scattered units"
    assert load_objective("joint_embedding", {}).plan(patches(1), np.random.default_rng(0)).masked is not None


def test_blocks_need_a_plane() -> None:
    with pytest.raises(InputError, match="drop needs units that lie in a plane"):
        make_spec(objective=JEPA)


def test_teacher_targets_by_hand() -> None:
    """The mean over layers of each unit's features, normalised to mean 0 and variance 1; only the last layer's for images."""
    states = [torch.tensor([[[1.0, 3.0], [0.0, 4.0]]]), torch.tensor([[[5.0, 1.0], [2.0, 8.0]]])]
    teacher_targets = load_objective("joint_embedding", {"layers": 2}).teacher_targets(states)
    assert torch.allclose(teacher_targets, torch.tensor([[[0.0, 0.0], [-1.0, 1.0]]]), atol=1e-3)
    last = load_objective("joint_embedding", {"masking": "drop"}).teacher_targets(states)
    assert torch.allclose(last, torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]]), atol=1e-3)
    prediction, where = torch.tensor([[[1.0, 0.0], [9.0, 9.0]]]), torch.tensor([[True, False]])
    loss, count = load_objective("joint_embedding", {"layers": 2}).loss(prediction, teacher_targets, where)
    assert (loss.item(), count.item()) == (pytest.approx(0.25, abs=1e-3), 1)  # half a square, over two features


def taught(steps: int) -> Trainer:
    trainer = make_trainer(make_spec(objective=VECTOR), Group())
    for step in range(steps):
        trainer.step(step, [(step * 5 + i, micro_batch(trainer.spec, step * 5 + i)) for i in range(5)])
    return trainer


def test_the_teacher_is_a_moving_average_of_the_weights() -> None:
    trainer = make_trainer(make_spec(objective=VECTOR), Group())
    assert trainer.teacher is not None
    expected = trainer.flat.buffer.double()
    for step in range(3):
        trainer.step(step, [(step * 5 + i, micro_batch(trainer.spec, step * 5 + i)) for i in range(5)])
        momentum = 0.9 + 0.1 * step / trainer.spec.train.steps
        expected = momentum * expected + (1 - momentum) * trainer.flat.buffer
    assert torch.allclose(trainer.teacher.buffer.double(), expected, atol=1e-6)
    assert not torch.equal(trainer.teacher.buffer, trainer.flat.buffer)


def test_the_teacher_is_in_checkpoints_and_state_shards(tmp_path) -> None:
    trainer = taught(2)
    assert trainer.teacher is not None
    folder = Store.at(str(tmp_path))
    save_checkpoint(folder, trainer, 2, "f", keep=2)
    other = make_trainer(trainer.spec, Group())
    assert load(folder, other, Checkpoint(2, ""), "f").step == 2
    assert other.teacher is not None
    assert torch.equal(other.teacher.buffer, trainer.teacher.buffer)
    assert torch.equal(other.state_shard()["teacher"], trainer.state_shard()["teacher"])
    _, weights, _ = load_weights(folder, "teacher")
    assert torch.equal(weights["model.norm.weight"], trainer.teacher.weights["model.norm.weight"])


def test_the_teacher_sees_masked_units() -> None:
    trainer = taught(0)
    assert trainer.teacher is not None
    from foundray.model.model import Batch

    batch = Batch.load(micro_batch(trainer.spec, 1), torch.device("cpu"))
    assert batch.masked is not None
    shown = trainer.teacher.targets(batch)
    x = batch.x.clone()
    x[batch.masked] = (x[batch.masked] + 1) % 40
    from dataclasses import replace

    assert not torch.allclose(trainer.teacher.targets(replace(batch, x=x))[batch.masked], shown[batch.masked])
    model = trainer.model(batch)["latent"]
    assert torch.allclose(trainer.model(replace(batch, x=x))["latent"], model), "the student does not"


# Two views


def test_contrastive_by_hand() -> None:
    """Three samples, six views in a plane: cross-entropy of each with its partner among the five others."""
    angles = torch.tensor([0.0, 0.3, 2.0, 2.2, 4.0, 4.5])
    views = torch.stack([angles.cos(), angles.sin()], 1) * torch.arange(1.0, 7.0)[:, None]
    objective = load_objective("contrastive", {"temperature": 0.5})
    loss, count = objective.loss(views[:, None], views, torch.ones(6, 1, dtype=torch.bool))
    cosines = np.cos(np.subtract.outer(angles.numpy(), angles.numpy())) / 0.5
    by_hand = sum(np.log(sum(np.exp(cosines[i, j]) for j in range(6) if j != i)) - cosines[i, i ^ 1] for i in range(6))
    assert (loss.item(), count.item()) == (pytest.approx(by_hand, rel=1e-6), 6)


def views(samples: int, width: int) -> torch.Tensor:
    return torch.randn(2 * samples, 1, width, generator=torch.Generator().manual_seed(0))


def test_contrastive_same_loss_as_a_library() -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    x, labels = views(8, 16), torch.arange(16) // 2
    loss, count = load_objective("contrastive", {}).loss(x, x, torch.ones(16, 1, dtype=torch.bool))
    reference = losses.NTXentLoss(temperature=0.5)(x[:, 0], labels)
    assert (loss / count).item() == pytest.approx(reference.item(), rel=1e-5)
    assert abs(losses.NTXentLoss(temperature=0.5)(x[:, 0], labels.flip(0).roll(1)) - loss / count) > 1e-3


def test_vicreg_same_loss_as_a_library() -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    x = views(8, 16)
    loss, count = load_objective("vicreg", {}).loss(x, x, torch.ones(16, 1, dtype=torch.bool))
    reference = losses.VICRegLoss()(x[::2, 0], ref_emb=x[1::2, 0])
    assert count == 8
    assert (loss / count).item() == pytest.approx(reference.item(), rel=1e-5)
    other, _ = load_objective("vicreg", {"covariance": 0.5}).loss(x, x, torch.ones(16, 1, dtype=torch.bool))
    assert abs(other / count - reference) > 1e-3  # the comparison can fail


def test_a_sample_alone_has_a_finite_loss() -> None:
    x = views(1, 4).requires_grad_()
    for kind in ("contrastive", "vicreg"):
        loss, _ = load_objective(kind, {}).loss(x, x, torch.ones(2, 1, dtype=torch.bool))
        loss.backward()
        assert torch.isfinite(x.grad).all(), kind


def test_coupled_rows_need_company() -> None:
    with pytest.raises(InputError, match="contrastive compares the samples of a micro-batch, so it must be 2 or more"):
        make_spec(objective={"kind": "contrastive"}, **IMAGE, **FILES, train__micro_batch_size=1)


# Collapse


def test_collapse_is_seen() -> None:
    rng = np.random.default_rng(0)
    everywhere = rng.standard_normal((500, 8))
    assert spread(everywhere) == pytest.approx(1.0, abs=0.02)
    assert effective_rank(everywhere) == pytest.approx(8.0, abs=0.1)
    line = np.outer(rng.standard_normal(500), np.ones(8)) + 5.0
    assert effective_rank(line) == pytest.approx(1.0, abs=0.01)
    point = np.tile(everywhere[0], (500, 1))
    assert spread(point) == pytest.approx(0.0, abs=1e-6)
    assert effective_rank(point) == 0.0
    evaluated = evaluate(taught(1), [(i, micro_batch(make_spec(objective=VECTOR), i)) for i in range(4)])
    assert evaluated.spread > 0.05
    assert evaluated.effective_rank > 1.0
