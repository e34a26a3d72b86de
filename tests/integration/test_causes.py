"""On real local Ray: errors in tasks keep their own message, and a run ends at a damaged sample."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray

import foundray as api
from foundray.cluster.causes import cause_of
from foundray.data.prepare.pipeline import in_task, over_units
from foundray.data.prepare.recipe import prepared_folder
from foundray.data.prepare.shard import Unit
from foundray.errors import BadData, InputError, RunFailed
from foundray.spec.loading import load_spec


def test_errors_in_tasks(own_ray: None, spec: Path) -> None:
    from ray.data import from_items
    from ray.exceptions import RayError

    def fails(row: dict[str, Any]) -> dict[str, Any]:
        try:
            raise OSError("no route to host")
        except OSError as error:
            raise ValueError(f"row {row['item']} of /x/a.jsonl") from error

    with pytest.raises(RayError) as raised:
        list(from_items([7]).map(fails).iter_rows())
    assert "To change retry attempts" in str(raised.value), "which is what Ray says last"
    assert cause_of(raised.value) == "ValueError: row 7 of /x/a.jsonl (from OSError: no route to host)"

    _, _, units = prepared_folder(load_spec(spec))
    file = units[0].files[0].url

    def breaks(unit: Unit) -> dict[str, str]:
        raise KeyError(unit.name)

    def refuses(unit: Unit) -> dict[str, str]:
        raise InputError(f"{unit.name} is bad")

    def dies(unit: Unit) -> dict[str, str]:
        os._exit(1)

    def cannot(number: int) -> int:
        raise (InputError if number else OverflowError)("too large a number\nof two lines")

    assert in_task("counting", lambda number: abs(number), -3) == 3
    with pytest.raises(InputError, match=r"^too large a number of two lines$"):
        in_task("counting", cannot, 1)
    with pytest.raises(RunFailed, match=r"^counting broke off: OverflowError: too large a number of two lines$"):
        in_task("counting", cannot, 0)
    with pytest.raises(RunFailed, match=rf"^preparing {file} failed: KeyError: '0-00000'$"):
        list(over_units(units, breaks, "preparing"))
    with pytest.raises(InputError, match=r"^0-00000 is bad$"):
        list(over_units(units, refuses))
    with pytest.raises(RunFailed, match=rf"^reading broke off: WorkerCrashedError: .*; {file} had not been read to the end; "):
        list(over_units(units, dies))


def test_a_run_over_a_damaged_shard_ends_with_its_name(own_ray: None, spec: Path) -> None:
    """In a program that has Ray already, whose connection is used and kept."""
    prepared = api.prepare(spec)
    path = Path((prepared.folder / prepared.manifest.shards[0].file).path)
    content = bytearray(path.read_bytes())
    for group in range(pq.read_metadata(path).num_row_groups):
        chunk = pq.read_metadata(path).row_group(group).column(0)
        content[chunk.data_page_offset + chunk.total_compressed_size - 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        api.train(spec)
    assert f"the prepared shard {path} is damaged (OSError: " in str(refused.value)
    assert f"delete {prepared.folder} and prepare again" in str(refused.value)
    assert ray.is_initialized()
    events = [json.loads(line) for line in (spec.parent / "runs/small/events.jsonl").read_text().splitlines()]
    (failed,) = [event for event in events if event["event"] == "failed"]
    assert f"the prepared shard {path} is damaged" in failed["reason"]
    assert not [event for event in events if event["event"] == "group_broken"], "no other group would fare better"
    assert issubclass(BadData, InputError)
