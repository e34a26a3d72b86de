"""A spec as a run's folder keeps it: the same from whatever folder a later command is called."""

from __future__ import annotations

from foundray.spec import Spec
from foundray.storage import Store


def with_absolute_paths(spec: Spec) -> Spec:
    """The spec with absolute paths of its data, sets, tasks and storage."""
    sources = [source.model_copy(update={"path": _absolute(source.path)}) for source in spec.data.sources]
    paths = {name: None if one.path is None else _absolute(one.path) for name, one in spec.evaluate.sets.items()}
    sets = {name: one.model_copy(update={"path": paths[name]}) for name, one in spec.evaluate.sets.items()}
    tasks = {name: task.model_copy(update={"path": _absolute(task.path)}) for name, task in spec.evaluate.tasks.items()}
    return spec.model_copy(
        update={
            "data": spec.data.model_copy(update={"sources": sources}),
            "evaluate": spec.evaluate.model_copy(update={"tasks": tasks, "sets": sets}),
            "storage": _absolute(spec.storage),
        }
    )


def _absolute(path: str) -> str:
    return Store.at(path).url
