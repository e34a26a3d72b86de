"""Runs a function on all units of raw files, as a Ray Data pipeline."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, TypeVar

from foundray.cluster.causes import cause_of, described
from foundray.cluster.local_ray import is_alone
from foundray.data.alone import without_helpers
from foundray.data.files.files import RawFile
from foundray.data.prepare.shard import Unit
from foundray.errors import FoundrayError, InputError, RunFailed

_Result = TypeVar("_Result")

RETRIES = 5
"""Times that a unit is retried after its process died."""
NAMED = 3
"""Files that an error message names."""


def over_units(units: list[Unit], work: Callable[[Unit], dict[str, str]], doing: str = "reading") -> Iterable[dict[str, Any]]:
    """Run `work` on every unit, as a Ray Data pipeline, and yield results as they are ready.

    `doing` describes the work in errors. An error inside a task comes back as a row: raised there, it would be retried and
    wrapped. Raises InputError as `work` does, and RunFailed for any other error of `work` or Ray.
    """
    if not units:
        return
    import ray.data

    # Ray Data's progress bars, plans and tracebacks would interleave with our output; our errors contain the cause.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray.data.DataContext.get_current().enable_progress_bars = False
    with without_helpers() if is_alone() else nullcontext():
        yield from _results(units, work, doing)


def _results(units: list[Unit], work: Callable[[Unit], dict[str, str]], doing: str) -> Iterator[dict[str, Any]]:
    import ray.data

    def guarded(row: dict[str, Any]) -> dict[str, Any]:
        fields = json.loads(row["unit"])
        unit = Unit(fields["name"], fields["source"], tuple(RawFile(**f) for f in fields["files"]))
        try:
            return {"index": row["index"], **work(unit)}
        except FoundrayError as error:
            return {"error": str(error)}
        except Exception as error:
            return {"error": "", "failure": f"{doing} {_files([unit])} failed: {described(error)}"}

    # Each block becomes a task.
    rows = ray.data.from_items(
        [{"index": index, "unit": json.dumps(asdict(unit))} for index, unit in enumerate(units)],
        override_num_blocks=min(len(units), 1000),
    )
    with warnings.catch_warnings():
        # Retry a task whose process dies, but not for ever, as Ray Data would. Ray warns about the argument.
        warnings.filterwarnings("ignore", message=".*ray_remote_args")
        results = rows.map(guarded, max_retries=RETRIES)
    left = dict(enumerate(units))
    try:
        for result in results.iter_rows():
            if result.get("failure"):
                raise RunFailed(result["failure"])
            if result.get("error"):
                raise InputError(result["error"])
            del left[result.pop("index")]
            yield result
    except ray.exceptions.RayError as error:
        raise RunFailed(
            f"{doing} broke off: {cause_of(error)}; {_files(list(left.values()))} had not been read to the end; "
            "the same command continues"
        ) from error


def in_task(doing: str, work: Callable[..., _Result], *arguments: Any) -> _Result:
    """Run `work` as one Ray task. Raises InputError as `work` does, and RunFailed for any other error."""
    import ray

    try:
        return ray.get(ray.remote(work).remote(*arguments))
    except ray.exceptions.RayError as error:
        if isinstance(cause := getattr(error, "cause", None), InputError):
            raise InputError(described(cause)) from None
        raise RunFailed(f"{doing} broke off: {cause_of(error)}") from error


def _files(units: list[Unit]) -> str:
    files = [file.url for unit in units for file in unit.files]
    return ", ".join(files[:NAMED]) + (f" and {len(files) - NAMED:,} more" if len(files) > NAMED else "")
