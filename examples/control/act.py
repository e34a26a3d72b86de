"""Let an exported decision transformer act, by Hugging Face's class alone: nothing of Foundray is needed here.

foundray export runs/decision-transformer models/decision-transformer
python examples/control/act.py models/decision-transformer CartPole-v1 500
"""

from __future__ import annotations

import sys
from statistics import mean
from typing import Any

import gymnasium
import numpy as np
import torch
from transformers import AutoModel

EPISODES = 10


@torch.no_grad()
def episode(model: Any, game: Any, asked: float, seed: int) -> float:
    """What it gets when it is asked for a return."""
    config = model.config
    mean_state, std = np.array(config.state_mean), np.array(config.state_std)
    steps, got, over = config.n_positions // 3, 0.0, False
    states, actions, returns = [], [], []
    state, _ = game.reset(seed=seed)
    while not over:
        states.append((state - mean_state) / std)
        returns.append([(asked - got) / config.return_scale])
        actions.append(np.zeros(config.act_dim))  # the one to come; what comes after a state does not change its answer
        times = np.arange(len(states)).clip(max=config.max_ep_len - 1)
        recent = [torch.from_numpy(np.array(some[-steps:], np.float32))[None] for some in (states, actions, returns)]
        given = dict(zip(("states", "actions", "returns_to_go"), recent, strict=True))
        answer = model(**given, timesteps=torch.from_numpy(times[-steps:])[None]).action_preds[0, -1].numpy()
        if config.discrete_actions:
            action = int(answer.argmax())
            actions[-1][action] = 1.0
        else:
            action = actions[-1] = answer.clip(game.action_space.low, game.action_space.high)
        state, reward, ended, cut, _ = game.step(action)
        got, over = got + reward, ended or cut
    return got


def main(folder: str, environment: str, asked: float) -> None:
    model, game = AutoModel.from_pretrained(folder).eval(), gymnasium.make(environment)
    got = [episode(model, game, asked, seed) for seed in range(EPISODES)]
    print(f"asked for {asked:g}, got {mean(got):.1f} on average: " + ", ".join(f"{one:.0f}" for one in got))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
