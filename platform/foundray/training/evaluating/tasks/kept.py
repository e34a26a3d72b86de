"""A run's own copies of its tasks, which its workers read, and which a later command finds if the files are away."""

from __future__ import annotations

from collections.abc import Callable

from foundray.data.prepare.manifest import Prepared
from foundray.data.prepare.recipe import rewrites_of
from foundray.errors import InputError
from foundray.runs.run import TASKS, Run
from foundray.spec import Spec
from foundray.spec.evaluating import LikelihoodTaskConfig
from foundray.storage import Store, reading
from foundray.training.evaluating.tasks.items import read_items


def check_tasks(spec: Spec) -> None:
    """Raises InputError if a task's file cannot be read, or has something else than items."""
    for name, task in spec.evaluate.tasks.items():
        read_items(_content(task), _where(name, task), task.delimiter, task.limit)


def keep_tasks(run: Run, spec: Spec, prepared: Prepared, report: Callable[[str], None]) -> None:
    """Copy the tasks' files into the run's folder; a copy stands in for a file that cannot be read.

    Raises InputError, and then writes nothing, if the run's model cannot score an item, or if there is neither file nor copy.
    """
    fresh = list[tuple[Store, bytes]]()
    for name, task in spec.evaluate.tasks.items():
        copy = run.folder / TASKS / f"{name}.jsonl"
        try:
            content = _content(task)
            fresh.append((copy, content))
        except InputError:
            if not copy.exists():
                raise
            content = copy.read_bytes()
        if line := _unknown(content, _where(name, task), task, spec, prepared):
            report(line)
    for copy, content in fresh:
        copy.write_bytes(content)


def _unknown(content: bytes, where: str, task: LikelihoodTaskConfig, spec: Spec, prepared: Prepared) -> str:
    """A line on what the run's tokenizer does not know; empty if it knows all. Raises InputError for what cannot be scored."""
    # Imported here: it imports torch, which only specs with tasks need so early.
    from foundray.training.evaluating.tasks.measures import questions_of, unknown_of

    items, tokenizer = read_items(content, where, task.delimiter, task.limit), prepared.tokenizer()
    rewrites = rewrites_of(prepared.manifest.recipe, spec)
    line = unknown_of(questions_of(items, tokenizer, spec.model.context, where, rewrites), tokenizer)
    return f"{where}: {line}" if line else ""


def _where(name: str, task: LikelihoodTaskConfig) -> str:
    return f"evaluate.tasks.{name}: {task.path}"


def _content(task: LikelihoodTaskConfig) -> bytes:
    file = Store.at(task.path)
    with reading(file):
        return file.read_bytes()
