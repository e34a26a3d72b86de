"""Trajectories of agents, from npz or Parquet files: return-to-go, state and action of each step, in turn.

An npz holds `states` [N, S], `actions` [N] or [N, A], `rewards` [N], and `lengths` [episodes] that add up to N, perhaps all
under a prefix such as `Pendulum-v1/`. A Parquet file has a row an episode, with the first three as lists.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import PositiveFloat, PositiveInt, model_validator

from foundray.contract import Kind, Units, UnitShape, Unreadable, Values

FIELDS = ("states", "actions", "rewards")


class Trajectory(Values):
    gives: ClassVar[str] = "steps"
    endings: ClassVar[tuple[str, ...]] = (".npz", ".parquet")

    state_width: PositiveInt
    """Values of a state."""
    action_width: PositiveInt
    """Values of an action; where actions are discrete, how many there are."""
    discrete: bool = False
    """Whether an action is one of some, numbered from 0."""
    prefix: str = ""
    """Of the arrays' names in an npz file."""
    longest: PositiveInt | None = None
    """Steps of the longest episode: units then tell the time since theirs began, without which a return that is still to come
    is a matter of skill early in an episode, and of little time late in it (default: they do not)."""
    return_scale: PositiveFloat = 1.0
    """What returns are divided by, so that they are of the order of one."""
    state_mean: tuple[float, ...] = ()
    """Of each value of a state, for standardising (default: states are taken as they are)."""
    state_std: tuple[PositiveFloat, ...] = ()
    """Standard deviation of each value of a state, likewise."""

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
        """Stretches of up to two samples' steps; each begins one sample's steps after the one before.

        A row holds `returns` [T], `states` [T * S] and `actions` [T * A] as flat lists, and the time of the first step.
        """
        window = length // len(self.shape.kinds)
        for label, episode in _parquet(content) if name.lower().endswith(".parquet") else _npz(content, self.prefix):
            try:
                steps = self._checked(episode)
            except Unreadable as error:
                yield label, error
                continue
            count = len(steps["returns"])
            for start in range(0, max(1, count - window + 1), window):
                stretch = {key: values[start : start + 2 * window].ravel().tolist() for key, values in steps.items()}
                yield f"{label}, step {start}", {**stretch, "time": start}

    def units(self, row: dict[str, Any], length: int, chance: np.random.Generator | None) -> Units:
        returns = np.asarray(row["returns"], np.float32)
        states = np.asarray(row["states"], np.float32).reshape(len(returns), -1)
        actions = np.asarray(row["actions"], np.float32).reshape(len(returns), -1)
        window = min(len(returns), length // len(self.shape.kinds))
        start = 0 if chance is None else int(chance.integers(0, len(returns) - window + 1))
        cut = slice(start, start + window)
        return Units(self.interleaved(returns[cut], states[cut], actions[cut], row["time"] + start))

    def interleaved(self, returns: np.ndarray, states: np.ndarray, actions: np.ndarray, time: int) -> np.ndarray:
        """[3 T, K]: the units of T steps, of returns [T], states [T, S] and actions [T, 1], or [T, A] where not discrete."""
        if self.state_mean:
            states = states - np.array(self.state_mean, np.float32)
        if self.state_std:
            states = states / np.array(self.state_std, np.float32)
        if self.discrete:
            actions = np.eye(self.action_width, dtype=np.float32)[actions[:, 0].astype(int)]
        units = np.zeros((len(returns), 3, self.shape.width), np.float32)
        for turn, values in enumerate((returns[:, None] / self.return_scale, states, actions)):
            units[:, turn, : values.shape[1]] = values
        if self.longest is not None:
            units[..., -1] = np.minimum(time + np.arange(len(units)), self.longest - 1)[:, None]
        return units.reshape(-1, self.shape.width)

    def _checked(self, episode: dict[str, Any]) -> dict[str, np.ndarray]:
        """An episode's states [T, S], actions [T, A] and returns-to-go [T]. Raises Unreadable."""
        try:
            states, actions, rewards = (np.asarray(episode[field], np.float32) for field in FIELDS)
        except (TypeError, ValueError):
            raise Unreadable("its states, actions and rewards are not arrays of numbers") from None
        if not rewards.size or not len(states) == len(actions) == len(rewards):
            raise Unreadable(f"{len(states)} states, {len(actions)} actions, {len(rewards)} rewards: each step has one of each")
        actions = actions.reshape(len(actions), -1)
        if self.longest is not None and len(rewards) > self.longest:
            raise Unreadable(f"an episode of {len(rewards)} steps, and longest says {self.longest}")
        if states.shape[1:] != (self.state_width,):
            raise Unreadable(f"a state is of {states.shape[1:]} values, and state_width says {self.state_width}")
        if actions.shape[1] != (1 if self.discrete else self.action_width):
            raise Unreadable(f"an action is of {actions.shape[1]} values, and action_width says {self.action_width}")
        if not all(np.isfinite(values).all() for values in (states, actions, rewards)):
            raise Unreadable("a value is missing or not finite")
        if self.discrete and not (np.isin(actions, np.arange(self.action_width))).all():
            raise Unreadable(f"an action is not one of 0 to {self.action_width - 1}")
        returns = rewards.astype(np.float64)[::-1].cumsum()[::-1].astype(np.float32)
        return {"states": states, "actions": actions, "returns": returns}


def _npz(content: bytes, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Raises Unreadable; arrays of pickled objects are never loaded."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {field: file[prefix + field] for field in (*FIELDS, "lengths")}
    except KeyError as error:
        raise Unreadable(f"{error.args[0]}: it needs {', '.join(prefix + field for field in (*FIELDS, 'lengths'))}") from None
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise Unreadable(f"not an npz file of plain arrays: {error}") from None
    lengths = arrays["lengths"]
    if any(len(arrays[field]) != lengths.sum() for field in FIELDS):
        raise Unreadable(f"its lengths add up to {lengths.sum()} steps, and it holds {len(arrays['rewards'])}")
    ends = lengths.cumsum()
    for number, (start, end) in enumerate(zip(ends - lengths, ends, strict=True)):
        yield f"episode {number}", {field: arrays[field][start:end] for field in FIELDS}


def _parquet(content: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise Unreadable(f"not readable as Parquet: {error}") from None
    if missing := [field for field in FIELDS if field not in table.column_names]:
        raise Unreadable(f"it has no column {missing[0]!r}; there are: {', '.join(table.column_names)}")
    yield from ((f"row {number}", row) for number, row in enumerate(table.select(FIELDS).to_pylist()))
