"""A function over all units of raw files, as a Ray Data pipeline."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from foundray.data.files import RawFile
from foundray.data.shard import Unit
from foundray.errors import FoundrayError, InputError


def over_units(units: list[Unit], work: Callable[[Unit], dict[str, str]]) -> Iterable[dict[str, Any]]:
    """`work` on every unit, as a Ray Data pipeline; results come as they are ready.

    An input error inside a task comes back as a row: raised there, it would be retried and wrapped.
    """
    if not units:
        return
    import ray.data

    # Its progress bars and plans would interleave with what `report` says; errors still come through.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def guarded(row: dict[str, Any]) -> dict[str, Any]:
        unit = json.loads(row["unit"])
        try:
            return work(Unit(unit["name"], unit["source"], tuple(RawFile(**f) for f in unit["files"])))
        except FoundrayError as error:
            return {"error": str(error)}

    rows = ray.data.from_items(
        [{"unit": json.dumps(asdict(unit))} for unit in units], override_num_blocks=min(len(units), 1000)
    )
    for result in rows.map(guarded).iter_rows():
        if result.get("error"):
            raise InputError(result["error"])
        yield result
