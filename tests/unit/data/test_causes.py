"""Errors inside a data task keep their own message, without Ray's, and with the sample and the files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.exceptions import RayTaskError, UserCodeException, WorkerCrashedError
from tests.unit.data.shards import shard_of

from foundray.cluster.causes import cause_of, described, sentence_of
from foundray.contract import Unreadable, Values
from foundray.data.prepare.manifest import Prepared
from foundray.data.stream import plan as stream
from foundray.data.stream.plan import plan_for, read_micro_batches
from foundray.errors import BadData, InputError, RunFailed
from foundray.spec import Spec

ADVICE = """Failed to apply UDF transform after 1/1 attempts (total backoff 0.0s).
To change retry attempts, backoff, or which errors are retried, configure `ray.data.DataContext.get_current()` \
(`retried_io_errors` for I/O; `retried_map_errors` and `max_map_retries` for any task) if you believe this to be transient."""
HEADING = "\x1b[36mray::Map(work)()\x1b[39m (pid=7654, ip=192.0.2.2)"
FRAME = '  File "/x/work.py", line 16, in work\n    raise ValueError("row 3")\n          ^^^^^^^^^^^^^^^^^'
LINK = "\n\nThe above exception was the direct cause of the following exception:\n\n"
WRAPPED = f"{HEADING}\nray.exceptions.UserCodeException: UDF failed to process a data block.\n{ADVICE}"


def task_error(*raised: str) -> RayTaskError:
    """An error as Ray Data 2.60 raises it: the function's errors appear only as text, root cause first."""
    text = LINK.join([*(f"{HEADING}\n{FRAME}\n{one}" for one in raised), WRAPPED])
    cause = UserCodeException(f"UDF failed to process a data block.\n{ADVICE}")
    return RayTaskError("Map(work)", text, cause).as_instanceof_cause()


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (("ValueError: row 3",), "ValueError: row 3"),
        (("foundray.errors.RunFailed: a.jsonl, line 3: no token",), "a.jsonl, line 3: no token"),
        (("KeyError",), "KeyError"),
        (("OSError: disk\nof two lines", "ValueError: row 3"), "ValueError: row 3 (from OSError: disk of two lines)"),
        (("OSError: disk", "foundray.errors.InputError: /x: disk"), "/x: disk"),
        (("pyarrow.lib.ArrowInvalid: 'utf8' in https://me:secret@host/x",), "ArrowInvalid: 'utf8' in https://host/x"),
    ],
)
def test_an_error_in_a_ray_data_task_is_what_its_function_raised(raised: tuple[str, ...], said: str) -> None:
    assert cause_of(task_error(*raised)) == said


def test_an_exception_that_ray_passes_on_keeps_its_message() -> None:
    """An error of a read task, through an actor: Ray adds its advice to the message."""
    inner = BadData(f"sample 0-00000:3 (of a.png) cannot be used: not a whole image\n{ADVICE}")
    text = f"{HEADING}\n{FRAME}\nfoundray.errors.BadData: {inner}"
    error = RayTaskError("lease", text, inner).as_instanceof_cause()
    assert cause_of(error) == "sample 0-00000:3 (of a.png) cannot be used: not a whole image"
    assert isinstance(error, InputError) and "Traceback" not in sentence_of(error)
    assert sentence_of(error) == cause_of(error)
    assert sentence_of(RunFailed("two\nlines")) == "two\nlines", "as it is"
    twice = RayTaskError("outer", text, error).as_instanceof_cause()
    assert cause_of(twice) == cause_of(error)


def test_other_errors_are_shown_by_their_first_line() -> None:
    assert cause_of(WorkerCrashedError()).startswith("WorkerCrashedError: The worker died unexpectedly")
    chained = RuntimeError("the group broke")
    chained.__cause__ = OSError("no route to host\nmore")
    assert cause_of(chained) == "OSError: no route to host"
    trained = RuntimeError("Ray Train")
    trained.worker_failures = {1: ValueError("rank 1")}  # type: ignore[attr-defined]
    assert cause_of(trained) == "ValueError: rank 1"
    assert cause_of(RuntimeError()) == "RuntimeError"
    assert described(Unreadable("not a whole image")) == "not a whole image"
    assert described(RunFailed("no room")) == "no room"
    assert len(described(ValueError("x" * 9999))) == 600


# In the stream of a run


def test_a_row_that_cannot_be_decoded_says_which_sample_it_is_and_of_which_files(prepared: tuple[Spec, Prepared]) -> None:
    spec, _ = prepared

    def cut(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        (name,) = rows[3]
        rows[3][name] = rows[3][name][:50]
        return pa.Table.from_pylist(rows, table.schema)

    broken = shard_of(spec, cut)
    raw = f"one of 6 files, {broken.manifest.shards[0].inputs[0]} to {broken.manifest.shards[0].inputs[5]}"
    with pytest.raises(BadData, match="cannot be used: not a") as refused:
        list(read_micro_batches(plan_for(broken, spec), 0, 6))
    assert str(refused.value).startswith(f"sample 0-00000:3 (of {raw}) cannot be used: ")


def test_samples_that_do_not_fit_together_are_named_too(
    prepared: tuple[Spec, Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, whole = prepared
    plan = replace(plan_for(whole, spec), folder=whole.folder.url)
    planner = stream._Planner(plan.planning)
    shapes = iter([1, 2])
    units = type(planner.modality).units

    def uneven(self: Values, row: Any, length: int, rng: Any) -> Any:
        made = units(self, row, length, rng)  # type: ignore[arg-type]
        return replace(made, x=np.repeat(made.x, next(shapes), axis=1))

    monkeypatch.setattr(type(planner.modality), "units", uneven)
    with pytest.raises(BadData, match=r"2 samples from 0-00000:\d on .* cannot be used: ValueError"):
        next(read_micro_batches(plan, 0, 1))


def test_a_damaged_shard_says_which_and_what_to_do(prepared: tuple[Spec, Prepared], tmp_path: Path) -> None:
    spec, whole = prepared
    path = Path((whole.folder / whole.manifest.shards[0].file).path)
    chunk, content = pq.read_metadata(path).row_group(0).column(0), bytearray(path.read_bytes())
    content[(chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size - 3] ^= 1
    for damaged in (content, content[:40] + content[41:] + b"\0", bytes(len(content))):
        path.write_bytes(damaged)
        stream._cache.clear()
        stream._parquet.cache_clear()
        with pytest.raises(BadData) as refused:
            list(read_micro_batches(plan_for(whole, spec), 0, 3))
        said = str(refused.value)
        assert said.startswith(f"the prepared shard {path} is damaged (") and "\n" not in said
        assert said.endswith(f"; delete {whole.folder} and prepare again")
    path.unlink()
    stream._parquet.cache_clear()
    with pytest.raises(InputError, match=rf"{path} cannot be read") as missing:
        list(read_micro_batches(plan_for(whole, spec), 0, 3))
    assert not isinstance(missing.value, BadData), "storage may come back"
