"""A worker's share of what an evaluation judges besides the loss: tasks by likelihood, and texts that the model writes."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

from foundray.data.tokenizers.tokenizer import Tokenizer
from foundray.runs.run import TASKS
from foundray.spec import Spec
from foundray.storage import Store
from foundray.training.elastic.messages import Work
from foundray.training.evaluating.tasks.items import read_items
from foundray.training.evaluating.tasks.measures import Question, flat, measured, questions_of
from foundray.training.evaluating.tasks.scoring import Likelihood, batches, score_batch
from foundray.training.evaluating.texts import continued
from foundray.training.step.trainer import Trainer


class Judging:
    """Tasks and texts. The results are the same on every worker, and for any number of workers."""

    def __init__(self, work: Work, spec: Spec, trainer: Trainer):
        self.work, self.spec, self.trainer = work, spec, trainer
        self.questions: dict[str, list[Question]] = {}
        """Tokenized items of each task, read when they are first needed."""

    @cached_property
    def tokenizer(self) -> Tokenizer:
        text = (Store.at(self.work.run) / "tokenizer.json").read_text()
        return Tokenizer.from_json(text, json.loads(self.work.plan.planning)["document_id"])

    def judge(self, done: int, ends_early: bool = False) -> dict[str, Any]:
        """Fields of the evaluation after `done` steps: `tasks` that are due, all of them at the run's end, and `texts`."""
        last = ends_early or done == self.spec.train.steps
        due = [name for name, task in self.spec.evaluate.tasks.items() if last or done % (task.every or 1) == 0]
        found: dict[str, Any] = {}
        if due:
            found["tasks"] = [self._task(name) for name in due]
        if self.work.prompts and self.spec.evaluate.text_tokens:
            found["texts"] = self._texts()
        return found

    def _task(self, name: str) -> dict[str, Any]:
        """Judge a task: each batch is scored by one worker."""
        questions, group = self._questions(name), self.trainer.group
        requests = flat(questions)
        own = [indices for number, indices in enumerate(batches(requests)) if number % group.world == group.rank]
        mine = []
        for indices in self.trainer.rounds_of(own):
            asked = [requests[index] for index in indices or ()]
            answers = score_batch(self.trainer.model, asked, self.trainer.answering)
            mine += [[index, one.log_prob, one.greedy] for index, one in zip(indices or (), answers, strict=True)]
        rows = sorted(row for of_worker in group.share(mine) for row in of_worker)
        score = measured(questions, [Likelihood(log_prob, greedy) for _, log_prob, greedy in rows])
        return {
            "name": name,
            "kind": questions[0].item.kind,
            "items": len(questions),
            "measures": {one.name: one.value for one in score.measures},
            "errors": {one.name: one.error for one in score.measures if one.error is not None},
        }

    def _questions(self, name: str) -> list[Question]:
        if name not in self.questions:
            task, file = self.spec.evaluate.tasks[name], Store.at(self.work.run) / TASKS / f"{name}.jsonl"
            items = read_items(file.read_bytes(), file.url, task.delimiter, task.limit)
            context, rewrites = self.spec.model.context, self.work.rewrites
            self.questions[name] = questions_of(items, self.tokenizer, context, file.url, rewrites)
        return self.questions[name]

    def _texts(self) -> list[dict[str, str]]:
        """What the model makes of each prompt, written by rank 0, or by the workers of its team."""
        prompts, rank, size = self.work.prompts, self.trainer.group.rank, self.trainer.team_size
        own = range(rank, len(prompts) if rank < size else 0, size)
        mine = []
        for number in self.trainer.rounds_of(own):
            prompt = None if number is None else prompts[number]
            text = continued(self.trainer, self.tokenizer, prompt, self.spec.evaluate.text_tokens)
            if number is not None:
                mine.append([number, text])
        written = sorted(row for of_worker in self.trainer.group.share(mine) for row in of_worker)
        return [{"prompt": prompts[number], "text": text} for number, text in written]
