"""Classification: a linear model, or nearest neighbours, on frozen features."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from foundray.contract import Units
from foundray.data.prepare.sources import BadRow
from foundray.errors import InputError
from foundray.evaluation.encoder import Encoder, Pool, Reader, Row, check_pool, counts, features, raw
from foundray.evaluation.probes.labels import Label, Labels
from foundray.evaluation.probes.task import FeatureTask, Judgement
from foundray.model.model import Batch
from foundray.runs.run import Run
from foundray.spec import SourceConfig

Fold = tuple[np.ndarray, np.ndarray]
"""Indices of the examples that a probe is fitted to, and of the held-out ones that it is tested on."""


class Examples:
    """Labelled examples of one or more rows each, in the order of the data."""

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.groups: list[str] = []
        self.rows: list[list[Row]] = []

    def add(self, source: SourceConfig, labels: Labels, reader: Reader) -> int:
        """Add a source's examples; returns the number of rows that could not be used. Raises InputError."""
        find, known, bad = labels.finder(source), dict[str, int](), 0
        for row in reader.read(source):
            if isinstance(row, BadRow):
                bad += row.lost
                continue
            label: Label = find(row)
            if label.example not in known:
                known[label.example] = len(self.rows)
                self.labels.append(label.label)
                self.groups.append(label.group)
                self.rows.append([])
            self.rows[known[label.example]].append(row)
        if not known:
            raise InputError(f"{source.path}: no example could be read")
        return bad


class Classify(FeatureTask):
    """Accuracy of a probe fitted to labelled examples and tested on others."""

    kind: Literal["classify"]
    """Classes of examples."""
    train: SourceConfig
    """The examples that the probe is fitted to: a source, as in a spec."""
    test: SourceConfig | None = None
    """The examples that it is tested on (default: the rest of `train`)."""
    labels: Labels
    """Where the labels come from."""
    probe: Literal["linear", "knn"] = "linear"
    """Logistic regression on standardised features, or nearest neighbours by cosine similarity."""
    labels_per_class: PositiveInt | None = None
    """Examples per class that the probe is fitted to, drawn by seed (default: all)."""
    leave_one_group_out: bool = False
    """Test on each group in turn after fitting to the others, and take the mean."""
    c: PositiveFloat = 1.0
    """Inverse strength of the linear probe's penalty, as scikit-learn's C."""
    neighbours: int = Field(default=5, ge=1)
    """Neighbours that vote, for `knn`."""

    @model_validator(mode="after")
    def _splits(self) -> Classify:
        if self.leave_one_group_out and (self.test or self.labels_per_class):
            raise ValueError("leave_one_group_out makes its own splits: leave out test and labels_per_class")
        if self.leave_one_group_out and not self.labels.groups:
            raise ValueError("leave_one_group_out needs labels of kind 'name' with a group (?P<group>...) in the pattern")
        if not (self.test or self.labels_per_class or self.leave_one_group_out):
            raise ValueError("nothing to test on: give test, labels_per_class or leave_one_group_out")
        return self

    def judge(self, run: Run) -> Judgement:
        # Read the labelled examples, and draw the folds.
        check_pool(run.spec(), self.pool)
        reader, examples = Reader(run), Examples()
        bad = examples.add(self.train, self.labels, reader)
        fitted = len(examples.rows)
        bad += examples.add(self.test, self.labels, reader) if self.test else 0
        labels, groups = np.array(examples.labels), np.array(examples.groups)
        draws = [self.folds(labels, groups, fitted, seed) for seed in range(self._draws)]
        # Decode and encode only the examples that a draw uses.
        used = np.unique(np.concatenate([part for folds in draws for fold in folds for part in fold]))
        draws = [[(np.searchsorted(used, fit), np.searchsorted(used, held)) for fit, held in folds] for folds in draws]
        labels, rows = labels[used], [examples.rows[index] for index in used]
        units = [reader.units(row) for example in rows for row in example]

        def scores(inputs: np.ndarray, draws: list[list[Fold]]) -> list[float]:
            return [float(np.mean([self._accuracy(inputs, labels, fold) for fold in folds])) for folds in draws]

        def by(encode: Callable[[Batch], Any], pool: Pool) -> np.ndarray:
            return per_example(features(encode, units, pool), rows)

        untrained = (Encoder.untrained(run, run.spec().seed + 1 + seed, self.layer) for seed in range(self.seeds))
        return Judgement(
            run=run.folder.url,
            measure="accuracy",
            higher_is_better=True,
            floor=scores(self._floor(units, rows), draws),
            random=[scores(by(one, self.pool), [draws[seed % self._draws]])[0] for seed, one in enumerate(untrained)],
            ours=scores(by(Encoder.trained(run, self.layer), self.pool), draws),
            facts={
                "classes": len(set(examples.labels)),
                "fitted to": round(float(np.mean([len(fit) for folds in draws for fit, _ in folds]))),
                "tested on": round(float(np.mean([len(held) for folds in draws for _, held in folds]))),
                "rows not readable": bad,
            },
        )

    @property
    def _draws(self) -> int:
        return self.seeds if self.labels_per_class else 1

    def folds(self, labels: np.ndarray, groups: np.ndarray, fitted: int, seed: int) -> list[Fold]:
        """Folds of [N] examples, the first `fitted` of which are from `train`. Raises InputError for too few of a class."""
        indices = np.arange(len(labels))
        if self.leave_one_group_out:
            if len(names := np.unique(groups)) < 2:
                raise InputError(f"leave_one_group_out: there is one group, {names[0]!r}; two are needed")
            return [(indices[groups != name], indices[groups == name]) for name in names]
        fit = indices[:fitted]
        if self.labels_per_class:
            rng, drawn = np.random.default_rng(seed), []
            for label in np.unique(labels[:fitted]):
                of_class = np.flatnonzero(labels[:fitted] == label)
                if (have := len(of_class)) < self.labels_per_class:
                    wanted = f"fewer than {self.labels_per_class}"
                    raise InputError(f"labels_per_class: class {str(label)!r} has {have} examples, {wanted}")
                drawn.append(rng.choice(of_class, self.labels_per_class, replace=False))
            fit = np.sort(np.concatenate(drawn))
        held = indices[fitted:] if self.test else np.setdiff1d(indices, fit)
        if not len(held):
            raise InputError("labels_per_class takes all examples: none is left to test on")
        return [(fit, held)]

    def _accuracy(self, inputs: np.ndarray, labels: np.ndarray, fold: Fold) -> float:
        fit, held = fold
        if self.probe == "linear":
            model = make_pipeline(StandardScaler(), LogisticRegression(C=self.c, max_iter=5000))
        else:
            model = KNeighborsClassifier(min(self.neighbours, len(fit)), metric="cosine")
        return float(model.fit(inputs[fit], labels[fit]).score(inputs[held], labels[held]))

    def _floor(self, units: list[Units], rows: list[list[Row]]) -> np.ndarray:
        return per_example(counts(units) if units[0].classes else features(raw, units, self.floor_pool), rows)


def per_example(of_rows: np.ndarray, examples: list[list[Row]]) -> np.ndarray:
    """Features per example [N, F'] from those of all rows [R, F]: the mean over each channel's rows, channels concatenated.

    Raises InputError if examples have different numbers of channels.
    """
    at, found = 0, []
    for rows in examples:
        channels: dict[str, list[np.ndarray]] = defaultdict(list)
        for row in rows:
            channel = re.search(r"channel (\d+)$", row.position)
            channels[channel[1] if channel else ""].append(of_rows[at])
            at += 1
        found.append(np.concatenate([np.mean(parts, 0) for parts in channels.values()]))
    if len({len(one) for one in found}) > 1:
        raise InputError("the examples have different numbers of channels")
    return np.stack(found)
