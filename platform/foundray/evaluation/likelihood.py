"""A run judged on tasks by likelihood, beside two floors: the untrained network, and how often each token occurs."""

from __future__ import annotations

import contextlib
import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foundray.data.prepare.reader import Reader
from foundray.data.stream.plan import plan_for, read_samples
from foundray.errors import InputError
from foundray.evaluation.encoder import Encoder, trained_weights
from foundray.runs.run import TASKS, Run
from foundray.spec import Spec, digest
from foundray.storage import Store, reading
from foundray.training.driver import prepared_data
from foundray.training.evaluating.tasks.items import read_items
from foundray.training.evaluating.tasks.measures import Question, Score, chance, judge, questions_of, unknown_of
from foundray.training.evaluating.tasks.scoring import by_frequency, by_model
from foundray.wording.sentences import plain
from foundray.wording.shown import Shown
from foundray.wording.words import loss as shown

UNIGRAM_TOKENS = 2**21
"""Training tokens that are counted for the floor of frequencies, from the start of the data order."""


@dataclass(frozen=True)
class TaskResult(Shown):
    """A run's measures on a task, and those of the floors."""

    run: str
    """The run's folder."""
    step: int
    """Steps done of the weights that were judged."""
    task: str
    """The task's file."""
    kind: str
    """Kind of its items: `choice`, `answer`, `pair` or `text`."""
    items: int
    ours: Score
    untrained: Score
    """Of the same network before its first step, in which every token is as likely."""
    unigram: Score | None
    """Of the tokens' frequencies in training data; None if the run's prepared data cannot be read."""
    chance: float | None
    """Accuracy of a guess, if there is a choice."""
    remark: str = ""
    """What the run's tokenizer does not know of the texts, for people; empty if it knows all."""
    facts: dict[str, Any] = field(default_factory=dict)
    """How the items were read."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> str:
        """A row per measure, and per group: the run's value and its standard error, and the floors' values."""
        floors = [self.untrained, *([self.unigram] if self.unigram else [])]
        head = ["", "ours", "untrained", *(["unigram"] if self.unigram else []), *(["chance"] if self.chance else [])]
        rows = [head]
        for index, one in enumerate(self.ours.measures):
            guess = [shown(self.chance) if "accuracy" in one.name and self.chance else ""] if self.chance else []
            better = "higher" if one.higher_is_better else "lower"
            values = [f"{one.name} ({better} is better)", _with_error(one.value, one.error)]
            rows.append([*values, *(shown(floor.measures[index].value) for floor in floors), *guess])
        for name, one in self.ours.groups.items():
            rows.append(
                [f"  {plain(name)}", _with_error(one.value, one.error), *(shown(floor.groups[name].value) for floor in floors)]
            )
        widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(len(head))]
        lines = ["   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
        lines.append(f"{self.items:,} items of the kind {self.kind}, the weights after step {self.step:,}")
        return "\n".join([*lines, *([self.remark] if self.remark else [])])


def _with_error(value: float, error: float | None) -> str:
    return shown(value) + ("" if error is None else f" ± {error:.4f}")


def check_continues(spec: Spec) -> None:
    """Raises InputError if the run's model gives no likelihood of a text."""
    objective, gives = spec.objective.build(), spec.data.modality.build().gives
    if not objective.continues or gives != "tokens":
        why = "it does not predict what comes next" if gives == "tokens" else f"{spec.data.modality.kind} is no text"
        raise InputError(
            f"a run of {spec.objective.kind} gives no likelihood of a text, since {why}; a task by likelihood needs an "
            "objective that continues text, such as next_token, and `foundray probe` judges the features of any run"
        )


def evaluate(run: Run, task: str, delimiter: str = "", limit: int | None = None, step: int | str | None = None) -> TaskResult:
    """Judge the run's newest weights, or those after `step`, on the items of a file of JSON Lines.

    Writes the result into the run's folder. Raises InputError if the file, an item or the run does not fit.
    """
    spec = run.spec()
    check_continues(spec)
    file = Store.at(task)
    with reading(file):
        content = file.read_bytes()
    items = read_items(content, task, delimiter, limit)
    reader = Reader(run)
    questions = questions_of(items, reader.tokenizer, spec.model.context, task, reader.rewrites)
    done, weights = trained_weights(run, run.checkpoint_step(step))
    trained = Encoder.of(spec, run.manifest()["vocabulary"], weights).model
    result = TaskResult(
        run=run.folder.url,
        step=done,
        task=task,
        kind=items[0].kind,
        items=len(items),
        ours=judge(questions, by_model(trained)),
        untrained=judge(questions, by_model(Encoder.untrained(run, spec.seed).model), share_ties=True),
        unigram=_unigram(run, spec, questions),
        chance=chance(questions),
        remark=unknown_of(questions, reader.tokenizer),
        facts={"delimiter": delimiter, "limit": limit},
    )
    record = {"time": time.time(), **result.to_dict()}
    name = f"{Path(task).stem}-{digest([task, delimiter, limit])[:8]}.json"
    with contextlib.suppress(InputError):  # the run's folder may be read-only; the result is returned anyway
        (run.folder / TASKS / name).write_text(json.dumps(record, indent=1))
    return result


def _unigram(run: Run, spec: Spec, questions: list[Question]) -> Score | None:
    """Score of the tokens' frequencies at the start of the data order; None if the prepared data cannot be read."""
    try:
        prepared = prepared_data(run)
        plan = plan_for(prepared, spec)
        samples = min(plan.order().train_samples, math.ceil(UNIGRAM_TOKENS / spec.model.context))
        table = read_samples(plan, 0, math.ceil(samples / plan.micro_batch_size))
    except InputError:
        return None
    ids = table.column("tokens").combine_chunks().values.to_numpy(zero_copy_only=False)
    return judge(questions, by_frequency(np.bincount(ids, minlength=prepared.manifest.vocabulary)), share_ties=True)
