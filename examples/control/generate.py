"""Make trajectories of CartPole-v1 and Pendulum-v1 with gymnasium: three skills, sixty episodes each, seeded.

    python examples/control/generate.py data/control/trajectories.npz

Skilled agents are rules with noise: push under the falling pole, pump energy into the pendulum and hold it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

EPISODES = 60
SKILLS = "random", "medium", "expert"
SLIPS = {"CartPole-v1": (1.0, 0.4, 0.0), "Pendulum-v1": (1.0, 0.25, 0.0)}
"""By skill: the fraction of random actions."""


def balance(state: np.ndarray) -> Any:
    """CartPole: push to where the pole falls, and a little towards the middle."""
    place, speed, angle, turning = state
    return int(0.05 * place + 0.2 * speed + 3.0 * angle + turning > 0)


def swing_up(state: np.ndarray) -> Any:
    """Pendulum: pump energy until it is nearly upright, then hold it there (Åström and Furuta 2000)."""
    cosine, sine, turning = state
    angle = np.arctan2(sine, cosine)
    if cosine > 0.9:
        torque = -12.0 * angle - 2.5 * turning
    else:
        energy = turning**2 / 6 + 5.0 * (cosine - 1)  # 0 at rest upright; m = l = 1, g = 10
        torque = -2.0 * np.sign(energy * turning) if turning else 2.0
    return np.clip([torque], -2.0, 2.0).astype(np.float32)


RULES: dict[str, Callable[[np.ndarray], Any]] = {"CartPole-v1": balance, "Pendulum-v1": swing_up}


def episode(name: str, slips: float, seed: int) -> dict[str, list[Any]]:
    """States, actions and rewards until it ends."""
    game = gymnasium.make(name)
    game.action_space.seed(seed)
    rng, steps = np.random.default_rng(seed), dict[str, list[Any]](states=[], actions=[], rewards=[])
    state, _ = game.reset(seed=seed)
    over = False
    while not over:
        action = game.action_space.sample() if rng.random() < slips else RULES[name](state)
        steps["states"].append(state)
        state, reward, ended, cut, _ = game.step(action)
        steps["actions"].append(np.ravel(action)[0])
        steps["rewards"].append(reward)
        over = ended or cut
    return steps


def main(target: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    for name in RULES:
        made = [episode(name, slips, 1000 * skill + n) for skill, slips in enumerate(SLIPS[name]) for n in range(EPISODES)]
        for field in ("states", "actions", "rewards"):
            arrays[f"{name}/{field}"] = np.array([value for one in made for value in one[field]], np.float32)
        arrays[f"{name}/lengths"] = np.array([len(one["rewards"]) for one in made])
        returns = np.array([sum(one["rewards"]) for one in made]).reshape(len(SKILLS), -1).mean(1)
        print(f"{name}: mean returns " + ", ".join(f"{skill} {r:.0f}" for skill, r in zip(SKILLS, returns, strict=True)))
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(target, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
