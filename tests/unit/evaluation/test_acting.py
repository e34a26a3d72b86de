"""Policies in a real environment: the model's input, the actions, and runs that cannot be judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.files import task_file

from foundray.errors import InputError
from foundray.evaluation.encoder import Encoder, Reader
from foundray.evaluation.probes import load_task, probe
from foundray.runs.run import Run
from foundray.testing.runs import run_with_checkpoint

pytest.importorskip("gymnasium")
CART = {"kind": "trajectory", "state_width": 4, "action_width": 2, "discrete": True, "return_scale": 10, "longest": 500}


def agent(folder: Path, **changes: Any) -> Run:
    """A run with a context of three steps."""
    fields = {"objective": {"kind": "next_action"}, "data__sources": [{"path": "x", "format": "files"}], "data__modality": CART}
    return run_with_checkpoint(folder, **{**fields, "model__context": 9, **changes})


def task(folder: Path, **fields: Any) -> Any:
    return load_task(task_file(folder, **{"kind": "return", "environment": "CartPole-v1", "ask": 50, "seeds": 2, **fields}))


def test_a_policy_is_judged_beside_chance_and_the_untrained(tmp_path: Path) -> None:
    judgement = probe(agent(tmp_path), task(tmp_path, ladder=[20], episodes=2))
    assert judgement.higher_is_better
    assert 10 < np.mean(judgement.floor) < 50, "under random actions the pole falls after about twenty steps"
    pushes = [*judgement.random, *judgement.ours]
    assert all(8 <= value < 11 for value in pushes), "none of them is trained: each repeats the same push"
    assert "asked for 20" in judgement.facts
    assert judgement.facts["episodes"] == 4


def test_the_last_state_decides_the_action(tmp_path: Path) -> None:
    run = agent(tmp_path)
    model, reader = Encoder.trained(run).model, Reader(run)
    torch.manual_seed(0)
    model.get_submodule("action").weight.data = torch.randn(2, 32)
    policy = task(tmp_path)._policy(model, reader, 0)
    rng = np.random.default_rng(0)
    long = {
        "returns": [9.0, 8.0, 7.0, 6.0, 5.0],
        "states": rng.standard_normal(20).tolist(),
        "actions": [0.0, 1.0, 1.0, 0.0],
    }
    short = {"returns": [5.0], "states": rng.standard_normal(4).tolist(), "actions": []}
    together = policy([long, short])
    assert together.tolist() == [int(policy([one])[0]) for one in (long, short)]

    assert policy([{**long, "states": [0.0] * 8 + long["states"][8:]}])[0] == together[0], (
        "steps before the context have no effect"
    )
    acts = {int(policy([{**long, "states": [*long["states"][:-4], *state]}])[0]) for state in rng.normal(0, 3, (20, 4))}
    assert acts == {0, 1}
    model.get_submodule("action").weight.data *= 0.1
    drawn = task(tmp_path, act="sample")._policy(model, reader, 0)
    assert {int(drawn([long])[0]) for _ in range(50)} == {0, 1}


def test_runs_that_cannot_be_judged(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="judges runs of the objective next_action, not of next_token"):
        probe(run_with_checkpoint(tmp_path / "text"), task(tmp_path))
    with pytest.raises(InputError, match="environment: "):
        probe(agent(tmp_path / "agent"), task(tmp_path, environment="NoSuchThing-v0"))
    with pytest.raises(InputError, match="CartPole-v1 has states of 4 values and 2 actions, and the run's data 4 and 3"):
        probe(agent(tmp_path / "three", data__modality={**CART, "action_width": 3}), task(tmp_path))
