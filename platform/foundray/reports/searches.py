"""A finished search, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from foundray.errors import InputError
from foundray.storage import Store

RANKING, TUNED = "ranking.json", "tuned.yaml"
"""Files in a search's folder: its result, and the spec that it found."""


@dataclass(frozen=True)
class SearchTrial:
    number: int
    values: dict[str, Any]
    tokens: int
    score: float
    state: str
    standing: str
    """The state in words."""


@dataclass(frozen=True)
class SearchFacts:
    """The search that a run's hyperparameters came from."""

    folder: str
    metric: str
    trials: list[SearchTrial]
    """The best first."""
    flops: float
    full: float
    """FLOPs of the full run."""
    allowed: float
    """FLOPs that the search was allowed."""
    values: dict[str, Any]
    """The best trial's values."""
    score: float
    """Its metric, as a proxy."""
    forecast: dict[str, Any] | None
    """The forecast of the full run, if one could be made."""
    ladder: int
    """Runs that the forecast is based on."""

    @property
    def scored(self) -> list[SearchTrial]:
        return [trial for trial in self.trials if trial.state != "diverged" and trial.tokens]


def find_search(location: str) -> Store | None:
    """The folder of a finished search at a location, or of that name in `runs/`; None if there is none."""
    places = (Store.at(place) for place in (location, f"runs/{location}"))
    return next((place for place in places if (place / RANKING).exists()), None)


def read_search(folder: Store) -> SearchFacts:
    """Read the result of the search in `folder`. Raises InputError if it is damaged."""
    try:
        found = json.loads((folder / RANKING).read_text())
        trials = [_trial(trial, found["metric"]) for trial in found["trials"]]
        return SearchFacts(
            folder.url, found["metric"], trials, found["flops"], found["full"], found["allowed"], found["values"],
            found["score"], found.get("forecast"), len(found.get("ladder", ())),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / RANKING} is damaged ({error}); the same `foundray tune` writes it again") from None


def _trial(found: Mapping[str, Any], metric: str) -> SearchTrial:
    last = found["rungs"][-1] if found["rungs"] else None
    tokens, score = (last["tokens"], last[metric]) if last else (0, float("inf"))
    return SearchTrial(found["number"], found["values"], tokens, score, found["state"], found.get("standing", found["state"]))
