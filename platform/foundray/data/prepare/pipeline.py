"""A function over all units of raw files, as a Ray Data pipeline."""

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
"""Times that a unit is tried again after its process died."""
NAMED = 3
"""Files that an error names."""


def over_units(units: list[Unit], work: Callable[[Unit], dict[str, str]], doing: str = "reading") -> Iterable[dict[str, Any]]:
    """`work` on every unit, as a Ray Data pipeline; results come as they are ready. `doing` says in an error what it does.

    An error inside a task comes back as a row: raised there, it would be retried and wrapped. Raises InputError as `work`
    does, and RunFailed for any other error, in it or of Ray.
    """
    if not units:
        return
    import ray.data

    # Its progress bars, plans and tracebacks would interleave with what `report` says; an error's cause is in ours.
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

    rows = ray.data.from_items(
        [{"index": index, "unit": json.dumps(asdict(unit))} for index, unit in enumerate(units)],
        override_num_blocks=min(len(units), 1000),
    )
    with warnings.catch_warnings():
        # A task whose process dies is tried again, but not for ever, as Ray Data would. Ray warns of the word.
        warnings.filterwarnings("ignore", message=".*ray_remote_args")
        made = rows.map(guarded, max_retries=RETRIES)
    left = dict(enumerate(units))
    try:
        for result in made.iter_rows():
            if result.get("failure"):
                raise RunFailed(result["failure"])
            if result.get("error"):
                raise InputError(result["error"])
            del left[result.pop("index")]
            yield result
    except ray.exceptions.RayError as error:
        raise RunFailed(
            f"{doing} broke off: {cause_of(error)}; {_files(list(left.values()))} had not been read to the end; "
            "the same command goes on"
        ) from error


def in_task(doing: str, work: Callable[..., _Result], *arguments: Any) -> _Result:
    """What `work` gives in one Ray task. Raises InputError as `work` does, and RunFailed for any other error."""
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
