"""Returns: what a policy gets from an environment, when it is asked for a return (Chen et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from pydantic import PositiveInt

from foundray.contract import Ask, Plan, UnitShape
from foundray.data.stream.batch import packed
from foundray.errors import InputError
from foundray.evaluation.encoder import Encoder, Reader
from foundray.evaluation.probes.task import Judgement, Task
from foundray.model.model import Batch, Model
from foundray.runs.run import Run

HEAD = "action"
Policy = Callable[[list[dict[str, list[float]]]], np.ndarray]
"""What is to be done now, [episodes, A], or [episodes] where actions are discrete; given each episode's steps so far."""


class Return(Task):
    """Mean return of episodes in a gymnasium environment. The floor acts at random."""

    kind: Literal["return"]
    """What a policy gets."""
    environment: str
    """The environment's id in gymnasium."""
    ask: float
    """The return that is asked for."""
    ladder: tuple[float, ...] = ()
    """Other returns that are asked for, to see whether what is got grows with it."""
    episodes: PositiveInt = 10
    """Episodes a seed, which also seeds how they start."""
    act: Literal["likeliest", "sample"] = "likeliest"
    """Of discrete actions: the likeliest one, or one drawn by the model's odds."""

    def judge(self, run: Run) -> Judgement:
        reader, shape = Reader(run), run.spec().unit_shape(0)
        trained = Encoder.trained(run).model
        if not shape.kinds or HEAD not in trained.heads:
            raise InputError(f"kind: return judges runs of the objective next_action, and not of {run.spec().objective.kind}")
        self._check_sizes(shape)

        def got(model: Model, asked: float) -> list[float]:
            policies = [self._policy(model, reader, seed) for seed in range(self.seeds)]
            return [self._play(policy, asked, seed) for seed, policy in enumerate(policies)]

        ladder = {f"asked for {asked:g}": round(float(np.mean(got(trained, asked))), 1) for asked in self.ladder}
        return Judgement(
            run=run.folder.url,
            measure=f"return, asked for {self.ask:g}",
            higher_is_better=True,
            floor=[self._play(None, self.ask, seed) for seed in range(self.seeds)],
            random=[
                float(np.mean(got(Encoder.untrained(run, run.spec().seed + 1 + seed).model, self.ask)))
                for seed in range(self.seeds)
            ],
            ours=got(trained, self.ask),
            facts={"environment": self.environment, "episodes": self.episodes * self.seeds, **ladder},
        )

    def _play(self, policy: Policy | None, asked: float, seed: int) -> float:
        """Mean return of some episodes, which are played side by side; at random without a policy. Raises InputError."""
        games = [self._made() for _ in range(self.episodes)]
        games[0].action_space.seed(seed)
        histories: list[dict[str, list[float]]] = [{"returns": [], "states": [], "actions": []} for _ in games]
        states = [game.reset(seed=1000 * seed + number)[0] for number, game in enumerate(games)]
        total, playing = np.zeros(len(games)), list(range(len(games)))
        while playing:
            for number in playing:
                histories[number]["returns"].append(asked - total[number])
                histories[number]["states"] += np.ravel(states[number]).tolist()
            if policy:
                actions = policy([histories[number] for number in playing])
            else:
                actions = np.array([games[0].action_space.sample() for _ in playing])
            for number, action in zip(list(playing), actions, strict=True):
                histories[number]["actions"] += np.ravel(action).tolist()
                states[number], reward, over, cut, _ = games[number].step(_fitting(action, games[number].action_space))
                total[number] += reward
                if over or cut:
                    playing.remove(number)
        for game in games:
            game.close()
        return float(total.mean())

    def _made(self) -> Any:
        try:
            import gymnasium
        except ImportError:
            raise InputError("kind: return needs gymnasium: pip install 'foundray[control]'") from None
        try:
            return gymnasium.make(self.environment)
        except gymnasium.error.Error as error:
            raise InputError(f"environment: {error}") from None

    def _check_sizes(self, shape: UnitShape) -> None:
        """Raises InputError where the run's data are not of this environment's sizes."""
        game = self._made()
        there = [math.prod(game.observation_space.shape or ()), getattr(game.action_space, "n", 0)]
        there[1] = there[1] or math.prod(game.action_space.shape)
        here = [kind.width for kind in shape.kinds[1:]]
        if there != here:
            raise InputError(
                f"environment: {self.environment} has states of {there[0]} values and {there[1]} actions, and the run's data "
                f"{here[0]} and {here[1]}"
            )

    def _policy(self, model: Model, reader: Reader, seed: int) -> Policy:
        shape, rng = reader.shape, np.random.default_rng(seed)
        window, (_, state, action) = reader.length // len(shape.kinds), shape.kinds
        width = 1 if action.discrete else action.width

        def recent(history: dict[str, list[float]]) -> dict[str, Any]:
            """The last steps, the one to come with any action: what comes after a state does not change its answer."""
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
            batch = Batch.load(packed([Plan(one, (Ask(HEAD, None),)) for one in units]), torch.device("cpu"))
            ends = torch.tensor([len(one) - 2 for one in units])  # the last state
            answers = model(batch)[HEAD][torch.arange(len(units)), ends].numpy()
            if action.discrete and self.act == "sample":
                answers = answers + rng.gumbel(size=answers.shape)
            result: np.ndarray = answers.argmax(-1) if action.discrete else answers
            return result

        return policy


def _fitting(action: np.ndarray, space: Any) -> Any:
    """As the environment takes it."""
    if hasattr(space, "n"):
        return int(action)
    return np.clip(action, space.low, space.high).astype(space.dtype)
