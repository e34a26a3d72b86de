"""Trajectories of agents, from npz or Parquet files: return-to-go, state and action of each step, in turn.

An npz has `states` [N, S], `actions` [N] or [N, A], `rewards` [N], and `lengths` [episodes] that add up to N, optionally with
a prefix such as `Pendulum-v1/`. A Parquet file has a row per episode, with the first three as lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from pydantic import PositiveFloat, PositiveInt, model_validator

from foundray.contract import Kind, Units, UnitShape, Unreadable, Values
from foundray_modalities.episodes import FIELDS, episodes

LARGEST = 1e15
"""Largest value of a unit: beyond it, squares summed over a batch would overflow float32 in training (judgement)."""
ROUNDING = 1e-3
"""Largest error that float32 may cause before standardising, relative to a standardised state or its deviation (judgement)."""


class Trajectory(Values):
    gives: ClassVar[str] = "steps"
    endings: ClassVar[tuple[str, ...]] = (".npz", ".parquet")

    state_width: PositiveInt
    """Number of values in a state."""
    action_width: PositiveInt
    """Number of values in an action, or number of actions if they are discrete."""
    discrete: bool = False
    """Whether actions are discrete, numbered from 0."""
    prefix: str = ""
    """Prefix of the arrays' names in an npz file."""
    longest: PositiveInt | None = None
    """Steps of the longest episode. If given, units contain the time since the start of their episode: without it, a low
    return-to-go may mean little skill early in an episode, or little time late in it (default: no time)."""
    return_scale: PositiveFloat = 1.0
    """Divisor of returns, to bring them to the order of one."""
    state_mean: tuple[float, ...] = ()
    """Mean of each value of a state, for standardising (default: states are not standardised)."""
    state_std: tuple[PositiveFloat, ...] = ()
    """Standard deviation of each value of a state, for standardising."""

    @model_validator(mode="after")
    def _fits(self) -> Trajectory:
        for name in ("state_mean", "state_std"):
            if (given := getattr(self, name)) and len(given) != self.state_width:
                raise ValueError(f"{name} has {len(given)} values, and a state has {self.state_width}")
        return self

    @property
    def shape(self) -> UnitShape:
        kinds = (Kind("return", 1), Kind("state", self.state_width), Kind("action", self.action_width, self.discrete))
        timed = self.longest is not None
        return UnitShape(width=max(kind.width for kind in kinds) + timed, kinds=kinds, times=self.longest or 0)

    def rows(self, name: str, content: bytes, length: int) -> Iterator[tuple[str, dict[str, Any] | Unreadable]]:
        """Yield stretches of up to two samples' steps; each starts one sample's steps after the last.

        A row has `returns` [T], `states` [T * S] and `actions` [T * A] as flat lists, and the time of the first step.
        """
        window = length // len(self.shape.kinds)
        for label, episode in episodes(name, content, self.prefix):
            try:
                if isinstance(episode, Unreadable):
                    raise episode
                steps = self._checked(episode)
            except Unreadable as error:
                yield label, error
                continue
            count = len(steps["returns"])
            for start in range(0, max(1, count - window + 1), window):
                stretch = {key: values[start : start + 2 * window].ravel().tolist() for key, values in steps.items()}
                yield f"{label}, step {start}", {**stretch, "time": start}

    def units(self, row: dict[str, Any], length: int, rng: np.random.Generator | None) -> Units:
        returns = np.asarray(row["returns"], np.float32)
        states = self._narrow(np.asarray(row["states"], np.float64).reshape(len(returns), -1))
        actions = np.asarray(row["actions"], np.float32).reshape(len(returns), -1)
        window = min(len(returns), length // len(self.shape.kinds))
        start = 0 if rng is None else int(rng.integers(0, len(returns) - window + 1))
        cut = slice(start, start + window)
        return Units(self.interleaved(returns[cut], states[cut], actions[cut], row["time"] + start))

    def interleaved(self, returns: np.ndarray, states: np.ndarray, actions: np.ndarray, time: int) -> np.ndarray:
        """Units [3 T, K] of T steps, from returns [T], states [T, S] and actions [T, A], or [T, 1] if discrete."""
        states = self._standardised(states)
        if self.discrete:
            actions = np.eye(self.action_width, dtype=np.float32)[actions[:, 0].astype(int)]
        units = np.zeros((len(returns), 3, self.shape.width), np.float32)
        for turn, values in enumerate((returns[:, None] / self.return_scale, states, actions)):
            units[:, turn, : values.shape[1]] = values
        if self.longest is not None:
            units[..., -1] = np.minimum(time + np.arange(len(units)), self.longest - 1)[:, None]
        return units.reshape(-1, self.shape.width)

    def _standardised(self, states: np.ndarray) -> np.ndarray:
        """Standardise states [T, S] in their own precision."""
        if self.state_mean:
            states = states - np.array(self.state_mean, states.dtype)
        if self.state_std:
            states = states / np.array(self.state_std, states.dtype)
        return states

    def _narrow(self, states: np.ndarray) -> np.ndarray:
        """Convert states [T, S] from float64 to float32, unless rounding would show after standardising."""
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = states.astype(np.float32)
            if self.state_mean or self.state_std:
                exact, rounded = self._standardised(states), self._standardised(narrow)
                if (np.abs(exact - rounded) > ROUNDING * np.maximum(1, np.abs(exact))).any():
                    return states
        return narrow

    def _checked(self, episode: dict[str, Any]) -> dict[str, np.ndarray]:
        """An episode's states [T, S], actions [T, A] and returns-to-go [T]. Raises Unreadable."""
        try:
            states, actions, rewards = (np.asarray(episode[field], np.float64) for field in FIELDS)
        except (TypeError, ValueError):
            raise Unreadable("its states, actions and rewards are not arrays of numbers", unit="episode") from None
        if reason := self._shape_fault(states, actions, rewards):
            raise Unreadable(reason, unit="episode")
        if not all(np.isfinite(values).all() for values in (states, actions, rewards)):
            raise Unreadable("a value is missing or not finite", unit="episode")
        with np.errstate(over="ignore"):
            returns = rewards.astype(np.float32).astype(np.float64).ravel()[::-1].cumsum()[::-1]
            seen = {"state": self._standardised(states), "action": actions, "return": returns / self.return_scale}
        for name, values in seen.items():
            if not (most := np.abs(values).max()) <= LARGEST:
                raise Unreadable(f"a {name} of {most:g} is too large for training (over {LARGEST:g})", unit="episode")
        done = actions.astype(np.float32).reshape(len(actions), -1)
        if self.discrete and not (np.isin(done, np.arange(self.action_width))).all():
            raise Unreadable(f"an action is not one of 0 to {self.action_width - 1}", unit="episode")
        return {"states": self._narrow(states), "actions": done, "returns": returns.astype(np.float32)}

    def _shape_fault(self, states: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> str:
        """What is wrong with the shapes of an episode; empty if nothing is."""
        counts = [len(values) if values.ndim else 0 for values in (states, actions, rewards)]
        if not counts[2] or len(set(counts)) > 1:
            return f"{counts[0]} states, {counts[1]} actions, {counts[2]} rewards: each step must have one of each"
        if rewards.size != counts[2]:
            return f"a reward has the shape {rewards.shape[1:]}, and a step has one number"
        if self.longest is not None and counts[2] > self.longest:
            return f"an episode of {counts[2]} steps, and longest is {self.longest}"
        if states.shape[1:] != (self.state_width,):
            return f"a state has the shape {states.shape[1:]}, and state_width is {self.state_width}"
        if (width := actions.size // counts[1]) != (1 if self.discrete else self.action_width):
            return f"an action has {width} values, and action_width is {self.action_width}"
        return ""
