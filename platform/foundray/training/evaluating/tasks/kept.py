"""A run's own copies of its tasks, which its workers read, and which a later command finds if the files are away."""

from __future__ import annotations

from foundray.errors import InputError
from foundray.runs.run import TASKS, Run
from foundray.spec import Spec
from foundray.spec.evaluating import LikelihoodTaskConfig
from foundray.storage import Store, reading
from foundray.training.evaluating.tasks.items import read_items


def check_tasks(spec: Spec) -> None:
    """Raises InputError if a task's file cannot be read, or has something else than items."""
    for name, task in spec.evaluate.tasks.items():
        _content(name, task)


def keep_tasks(run: Run, spec: Spec) -> None:
    """Copy the tasks' files into the run's folder. Raises InputError if one cannot be used, and no copy is there."""
    for name, task in spec.evaluate.tasks.items():
        copy = run.folder / TASKS / f"{name}.jsonl"
        try:
            content = _content(name, task)
        except InputError:
            if not copy.exists():
                raise
        else:
            copy.write_bytes(content)


def _content(name: str, task: LikelihoodTaskConfig) -> bytes:
    file = Store.at(task.path)
    with reading(file):
        content = file.read_bytes()
    read_items(content, f"evaluate.tasks.{name}: {task.path}", task.delimiter, task.limit)
    return content
