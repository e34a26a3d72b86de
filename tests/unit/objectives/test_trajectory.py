"""Trajectories: from files to steps, their targets, and the reference model's loss."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.unit.files import rows

from foundray.contract import Plan, Units, load_modality, load_objective
from foundray.data.prepare.sources import BadRow
from foundray.data.stream.batch import packed
from foundray.errors import InputError
from foundray.model.model import Batch, Model
from foundray.spec import ModelConfig
from foundray.testing.specs import make_spec

CART = {"state_width": 2, "action_width": 3, "discrete": True}
EPISODE = {
    "states": [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]],
    "actions": [2.0, 0.0, 1.0],
    "rewards": [1.0, 10.0, 100.0],
}


def trajectory(**options: Any) -> Any:
    return load_modality("trajectory", {**CART, **options})


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_returns_states_and_actions_take_turns(tmp_path: Path) -> None:
    modality = trajectory(return_scale=10.0, state_mean=[1, 1], state_std=[2, 2], longest=9)
    path = npz(tmp_path / "a.npz", lengths=[3], **EPISODE)
    (row,) = rows(modality, path, length=9)
    assert modality.units(row, 9, None).x.tolist() == [
        [np.float32(11.1), 0, 0, 0], [-0.5, 0, 0, 0], [0, 0, 1, 0],
        [11, 0, 0, 1], [0.5, 1, 0, 1], [1, 0, 0, 1],
        [10, 0, 0, 2], [1.5, 2, 0, 2], [0, 1, 0, 2],
    ]  # fmt: skip
    table = {name: [values] for name, values in EPISODE.items()}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    assert rows(modality, tmp_path / "a.parquet", length=9) == [row]


def test_an_episode_is_covered_by_its_stretches(tmp_path: Path) -> None:
    count = 47
    path = npz(
        tmp_path / "a.npz",
        **{"x/states": np.arange(2 * count).reshape(count, 2), "x/actions": np.zeros(count)},
        **{"x/rewards": np.ones(count), "x/lengths": [5, count - 5]},
    )
    modality = trajectory(prefix="x/", longest=42)
    found = rows(modality, path, length=30)
    assert [len(row["returns"]) for row in found] == [5, 20, 20, 20, 12]
    assert [row["returns"][0] for row in found] == [5, 42, 32, 22, 12]
    assert {x for row in found for x in row["states"]} == set(range(2 * count))
    cut = modality.units(found[1], 30, np.random.default_rng(1)).x
    assert len(cut) == 30
    assert np.array_equal(np.diff(cut[0::3, 0]), [-1] * 9)
    assert np.array_equal(cut[0::3, -1], 42 - cut[0::3, 0]), "the time since the episode began"


def test_unusable_files_are_reported_and_nothing_is_unpickled(tmp_path: Path) -> None:
    def reasons(modality: Any = None, **changes: Any) -> list[str]:
        path = npz(tmp_path / "a.npz", **{**EPISODE, "lengths": [3], **changes})
        return [row.reason if isinstance(row, BadRow) else "good" for row in rows(modality or trajectory(), path, length=9)]

    assert reasons() == ["good"]
    assert "object arrays are not loaded" in reasons(states=np.array([{"a": 1}, 2, 3], dtype=object))[0]
    assert reasons(lengths=[2]) == ["its lengths add up to 2 steps, and it has 3"]
    assert reasons(actions=[0, 1, 3]) == ["an action is not one of 0 to 2"]
    assert reasons(rewards=[1, np.nan, 1]) == ["a value is missing or not finite"]
    assert "state_width is 4" in reasons(trajectory(state_width=4))[0]
    assert "action_width is 3" in reasons(trajectory(discrete=False))[0]
    assert reasons(trajectory(longest=2)) == ["an episode of 3 steps, and longest is 2"]
    assert "it needs x/states" in reasons(trajectory(prefix="x/"))[0]
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:300])
    assert "not an npz file of plain arrays" in rows(trajectory(), tmp_path / "b.npz")[0].reason
    file = io.BytesIO()
    pq.write_table(pa.table({"states": [[[0.0, 1.0], [1.0]]], "actions": [[0.0]], "rewards": [[1.0]]}), file)
    (tmp_path / "c.parquet").write_bytes(file.getvalue())
    assert rows(trajectory(), tmp_path / "c.parquet")[0].reason == "its states, actions and rewards are not arrays of numbers"
    assert "2 rewards: each step must have one of each" in trajectory_reason(tmp_path)


def trajectory_reason(folder: Path) -> str:
    pq.write_table(pa.table({**{k: [v] for k, v in EPISODE.items()}, "rewards": [[1.0, 2.0]]}), folder / "d.parquet")
    return rows(trajectory(), folder / "d.parquet")[0].reason


def units(modality: Any) -> Units:
    returns, states = np.float32([3, 2, 1]), np.float32(EPISODE["states"])
    return Units(modality.interleaved(returns, states, np.float32([[2], [0], [1]]), 0), None, modality.shape)


def test_next_action_by_hand() -> None:
    plan = load_objective("next_action", {}).plan(units(trajectory()), np.random.default_rng(0))
    (target,) = plan.targets
    assert target.loss_mask is not None
    assert target.values is not None
    assert np.flatnonzero(target.loss_mask).tolist() == [1, 4, 7]
    assert target.values[target.loss_mask].tolist() == [2, 0, 1]


def test_next_state_by_hand() -> None:
    plan = load_objective("next_state", {"scale": 0.5}).plan(units(trajectory()), np.random.default_rng(0))
    (target,) = plan.targets
    assert target.loss_mask is not None
    assert target.values is not None
    assert np.flatnonzero(target.loss_mask).tolist() == [2, 5]
    assert target.values[target.loss_mask].tolist() == [[1, 1], [1, 1]]
    assert plan.masked is not None
    assert np.flatnonzero(plan.masked).tolist() == [0, 3, 6], "the return would reveal the future"


def test_masked_units_keep_their_times() -> None:
    """The mask vector replaces only the values: a unit's time embedding and the norm come after it."""
    modality, objective = trajectory(longest=50), load_objective("next_state", {})
    shape = ModelConfig(width=32, depth=1, heads=4, context=9, rope_theta=None)
    model = Model(shape, objective, modality.shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    batch = Batch.load(packed([objective.plan(units(modality), np.random.default_rng(0))]), torch.device("cpu"))
    stem, h = model.model.embed_values, model.model.embed(batch.x, batch.masked)
    for step, unit in enumerate((0, 3, 6)):
        assert torch.allclose(h[0, unit], stem.norm(model.model.mask + stem.time.weight[step]), atol=1e-5)  # type: ignore
    shown = model.model.embed(batch.x, None)
    assert torch.equal(h[0, 1], shown[0, 1])
    assert not torch.allclose(h[0, 0], shown[0, 0])


def test_a_context_is_whole_steps() -> None:
    files = [{"path": "x", "format": "files"}]
    with pytest.raises(InputError, match=r"take turns \(return, state, action\), so it must be a multiple of 3"):
        objective, modality = {"kind": "next_action"}, {"kind": "trajectory", **CART}
        make_spec(data__modality=modality, data__sources=files, objective=objective, model__context=32)


def test_next_action_same_loss_as_decision_transformer() -> None:
    """The whole model; the reference's learned position, the same for all units, is set to zero."""
    transformers = pytest.importorskip("transformers")
    width, steps = 32, 7
    config = transformers.DecisionTransformerConfig(
        state_dim=5, act_dim=2, hidden_size=width, n_layer=2, n_head=4, max_ep_len=50, n_inner=64, action_tanh=False,
        attn_pdrop=0, resid_pdrop=0, embd_pdrop=0, layer_norm_epsilon=1e-6, activation_function="relu",
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.DecisionTransformerModel(config).eval()
    for parameter in theirs.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.25
    for absent in (theirs.encoder.wpe.weight, theirs.predict_action[0].bias):
        absent.data.zero_()
    for norm in (theirs.embed_ln, theirs.encoder.ln_f):
        norm.eps = 1e-6
    modality: Any = load_modality("trajectory", {"state_width": 5, "action_width": 2, "longest": 50})
    objective = load_objective("next_action", {})
    size = {"width": width, "depth": 2, "heads": 4, "context": 3 * steps, "hidden": 64}
    shape = ModelConfig(**size, norm="ln", act="relu", bias=True, rope_theta=None)
    ours = Model(shape, objective, modality.shape)
    ours.load_state_dict(_as_ours(theirs.state_dict(), width))

    rng = np.random.default_rng(1)
    returns, states, actions = (rng.standard_normal((2, steps, k)).astype(np.float32) for k in (1, 5, 2))
    plans: list[Plan] = []
    for r, s, a in zip(returns, states, actions, strict=True):
        plans.append(objective.plan(Units(modality.interleaved(r[:, 0], s, a, 0), None, modality.shape), rng))
    batch = Batch.load(packed(plans), torch.device("cpu"))
    target, loss_mask = batch.targets["action"]
    assert target is not None

    def loss(model: Model) -> torch.Tensor:
        total, count = objective.loss(model(batch)["action"], target, loss_mask)
        return total / count

    output = theirs(
        states=torch.from_numpy(states), actions=torch.from_numpy(actions), rewards=torch.zeros(2, steps, 1),
        returns_to_go=torch.from_numpy(returns), timesteps=torch.arange(steps)[None].expand(2, -1),
        attention_mask=torch.ones(2, steps, dtype=torch.long),
    )  # fmt: skip
    reference = torch.nn.functional.mse_loss(output.action_preds, torch.from_numpy(actions))
    assert loss(ours).item() == pytest.approx(reference.item(), rel=1e-5)
    with_places = Model(shape.model_copy(update={"rope_theta": 10_000.0}), objective, modality.shape)
    with_places.load_state_dict(ours.state_dict())
    assert abs(loss(with_places) - reference) > 1e-3  # the comparison can fail


def _as_ours(theirs: dict[str, torch.Tensor], width: int) -> dict[str, torch.Tensor]:
    """The reference's weights under our names. GPT-2 stores matrices transposed, and q, k and v together."""
    times = theirs["embed_timestep.weight"][:50]  # the reference has one more
    ours = {"action.weight": theirs["predict_action.0.weight"], "model.embed_values.time.weight": times}
    for kind in ("return", "state", "action"):
        ours |= {f"model.embed_values.of.{kind}.{part}": theirs[f"embed_{kind}.{part}"] for part in ("weight", "bias")}
    norms = {"embed_ln": "embed_values.norm", "encoder.ln_f": "norm"}
    matrices = {"attn.c_proj": "self_attn.o_proj", "mlp.c_fc": "mlp.up_proj", "mlp.c_proj": "mlp.down_proj"}
    for layer in range(2):
        there, here = f"encoder.h.{layer}", f"layers.{layer}"
        norms |= {f"{there}.ln_1": f"{here}.input_layernorm", f"{there}.ln_2": f"{here}.post_attention_layernorm"}
        for a, b in matrices.items():
            ours[f"model.{here}.{b}.weight"] = theirs[f"{there}.{a}.weight"].T
            ours[f"model.{here}.{b}.bias"] = theirs[f"{there}.{a}.bias"]
        for index, name in enumerate("qkv"):
            span = slice(width * index, width * (index + 1))
            ours[f"model.{here}.self_attn.{name}_proj.weight"] = theirs[f"{there}.attn.c_attn.weight"].T[span]
            ours[f"model.{here}.self_attn.{name}_proj.bias"] = theirs[f"{there}.attn.c_attn.bias"][span]
    ours |= {f"model.{b}.{part}": theirs[f"{a}.{part}"] for a, b in norms.items() for part in ("weight", "bias")}
    return ours
