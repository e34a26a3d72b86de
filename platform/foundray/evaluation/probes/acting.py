"""Returns: what a policy collects in an environment if conditioned on a target return (Chen et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from pydantic import PositiveInt

from foundray.contract import Plan, Target, UnitShape
from foundray.data.stream.batch import packed
from foundray.errors import InputError
from foundray.evaluation.encoder import Encoder, Reader
from foundray.evaluation.probes.task import Judgement, Task
from foundray.model.model import Batch, Model
from foundray.runs.run import Run

HEAD = "action"
Policy = Callable[[list[dict[str, list[float]]]], np.ndarray]
"""From each episode's steps so far to its next action: [episodes, A], or [episodes] if actions are discrete."""


class Return(Task):
    """Mean return of episodes in a gymnasium environment. The floor acts at random."""

    kind: Literal["return"]
    """The return of a policy."""
    environment: str
    """The environment's id in gymnasium."""
    ask: float
    """The target return."""
    ladder: tuple[float, ...] = ()
    """Other target returns, to see whether the return grows with its target."""
    episodes: PositiveInt = 10
    """Episodes per seed; the seed also sets their initial states."""
    act: Literal["likeliest", "sample"] = "likeliest"
    """For discrete actions: the likeliest one, or one sampled from the model's distribution."""

    def judge(self, run: Run) -> Judgement:
        reader, shape = Reader(run), run.spec().unit_shape(0)
        trained = Encoder.trained(run).model
        if not shape.kinds or HEAD not in trained.heads:
            raise InputError(f"kind: return judges runs of the objective next_action, not of {run.spec().objective.kind}")
        self._check_sizes(shape)

        def returns(model: Model, target: float) -> list[float]:
            policies = [self._policy(model, reader, seed) for seed in range(self.seeds)]
            return [self._play(policy, target, seed) for seed, policy in enumerate(policies)]

        ladder = {f"asked for {target:g}": round(float(np.mean(returns(trained, target))), 1) for target in self.ladder}
        return Judgement(
            run=run.folder.url,
            measure=f"return, asked for {self.ask:g}",
            higher_is_better=True,
            floor=[self._play(None, self.ask, seed) for seed in range(self.seeds)],
            random=[
                float(np.mean(returns(Encoder.untrained(run, run.spec().seed + 1 + seed).model, self.ask)))
                for seed in range(self.seeds)
            ],
            ours=returns(trained, self.ask),
            facts={"environment": self.environment, "episodes": self.episodes * self.seeds, **ladder},
        )

    def _play(self, policy: Policy | None, target: float, seed: int) -> float:
        """Mean return of episodes played side by side; random actions without a policy. Raises InputError."""
        environments = [self._environment() for _ in range(self.episodes)]
        environments[0].action_space.seed(seed)
        histories: list[dict[str, list[float]]] = [{"returns": [], "states": [], "actions": []} for _ in environments]
        states = [environment.reset(seed=1000 * seed + number)[0] for number, environment in enumerate(environments)]
        total, running = np.zeros(len(environments)), list(range(len(environments)))
        while running:
            # The target return minus the rewards so far, and the state, extend each episode's history.
            for number in running:
                histories[number]["returns"].append(target - total[number])
                histories[number]["states"] += np.ravel(states[number]).tolist()
            if policy:
                actions = policy([histories[number] for number in running])
            else:
                actions = np.array([environments[0].action_space.sample() for _ in running])
            # Act, and drop the episodes that end.
            for number, action in zip(list(running), actions, strict=True):
                histories[number]["actions"] += np.ravel(action).tolist()
                valid = _to_space(action, environments[number].action_space)
                states[number], reward, terminated, truncated, _ = environments[number].step(valid)
                total[number] += reward
                if terminated or truncated:
                    running.remove(number)
        for environment in environments:
            environment.close()
        return float(total.mean())

    def _environment(self) -> Any:
        try:
            import gymnasium
        except ImportError:
            raise InputError("kind: return needs gymnasium: pip install 'foundray[control]'") from None
        try:
            return gymnasium.make(self.environment)
        except gymnasium.error.Error as error:
            raise InputError(f"environment: {error}") from None

    def _check_sizes(self, shape: UnitShape) -> None:
        """Raises InputError if the environment's sizes are not those of the run's data."""
        environment = self._environment()
        sizes = [math.prod(environment.observation_space.shape or ()), getattr(environment.action_space, "n", 0)]
        sizes[1] = sizes[1] or math.prod(environment.action_space.shape)
        of_run = [kind.width for kind in shape.kinds[1:]]
        if sizes != of_run:
            raise InputError(
                f"environment: {self.environment} has states of {sizes[0]} values and {sizes[1]} actions, and the run's data "
                f"{of_run[0]} and {of_run[1]}"
            )

    def _policy(self, model: Model, reader: Reader, seed: int) -> Policy:
        shape, rng = reader.shape, np.random.default_rng(seed)
        window, (_, state, action) = reader.length // len(shape.kinds), shape.kinds
        width = 1 if action.discrete else action.width

        def recent(history: dict[str, list[float]]) -> dict[str, Any]:
            """The last steps; the current one's action is arbitrary, since a state's output does not depend on later units."""
            steps = min(window, len(history["returns"]))
            return {
                "returns": history["returns"][-steps:],
                "states": history["states"][-steps * state.width :],
                "actions": [*history["actions"], *[0.0] * width][-steps * width :],
                "time": len(history["returns"]) - steps,
            }

        @torch.no_grad()
        def policy(histories: list[dict[str, list[float]]]) -> np.ndarray:
            units = [reader.row_units(recent(history)) for history in histories]
            batch = Batch.load(packed([Plan(one, (Target(HEAD, None),)) for one in units]), torch.device("cpu"))
            ends = torch.tensor([len(one) - 2 for one in units])  # the last state
            outputs = model(batch)[HEAD][torch.arange(len(units)), ends].numpy()
            if action.discrete and self.act == "sample":
                outputs = outputs + rng.gumbel(size=outputs.shape)
            result: np.ndarray = outputs.argmax(-1) if action.discrete else outputs
            return result

        return policy


def _to_space(action: np.ndarray, space: Any) -> Any:
    """Convert an action to the environment's type and range."""
    if hasattr(space, "n"):
        return int(action)
    return np.clip(action, space.low, space.high).astype(space.dtype)
