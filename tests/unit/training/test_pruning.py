"""What `foundray runs` lists, and what `foundray prune` deletes and what it never does."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from foundray.cli import _run
from foundray.errors import InputError
from foundray.runs.checkpoints import completed_steps, folders, place, step_of
from foundray.runs.listing import runs_in, table
from foundray.runs.lock import RunLock
from foundray.runs.run import Run
from foundray.storage import Store
from foundray.testing.records import event_at, step_records
from foundray.testing.runs import run_with_records
from foundray.training.checkpoints.written import CheckpointManifest, ShardFile, commit
from foundray.training.pruning import prune, removable

MEASURED = {"val_tokens": 10, "feature_spread": 0.1, "effective_rank": 3.0, "seconds": 0.5}
STARTED = {"device": "cpu", "state": "memory", "seconds": 0.1}
FINISHED = event_at(130, "finished", step=120, weights_sha256="ab" * 32)


def a_run(storage: Path, *events: dict[str, Any], checkpoints: dict[int, str], **changes: Any) -> Run:
    """A run of 120 steps, whose decay begins after 96, with checkpoints made under these cuts, by step."""
    losses = {40: 2.0, 80: 2.5, 120: 2.2}
    log = [
        event_at(0, "command", workers=[1, 1], environment={}),
        event_at(1, "workers_started", step=0, workers=2, **STARTED),
        *(event_at(1 + step, "evaluated", step=step, val_loss=loss, **MEASURED) for step, loss in losses.items()),
        *events,
    ]
    run = run_with_records(storage, log, step_records(1, 120, 1), **{"train__steps": 120, "train__keep_best": 1, **changes})
    for step, cut in checkpoints.items():
        shard = place(run.checkpoints, step, cut) / "blocks-0.safetensors"
        shard.write_bytes(b"x" * 100)
        part = ShardFile(file=shard.name, ranges=[(0, 1)], bytes=100, sha256="")
        manifest = CheckpointManifest(
            step=step, fingerprint="", optimizer="adamw", parameters=[("w", [256], 0)], shards=[part], lineage=cut
        )
        commit(run.checkpoints, manifest)
    return run


def left(run: Run) -> list[int]:
    return [step_of(one) for one in folders(run.checkpoints)]


ALL = dict.fromkeys((20, 40, 60, 90, 95, 100, 110, 120), "")


def test_a_finished_run_keeps_its_end_its_best_and_what_it_is_extended_from(tmp_path: Path) -> None:
    run = a_run(tmp_path, FINISHED, checkpoints=ALL)
    (place(run.checkpoints, 70) / "blocks-0.safetensors").write_bytes(b"x" * 50)  # never completed
    found = prune(str(tmp_path), False, print)
    assert {step_of(one.folder) for one in found} == {20, 60, 70, 90, 100, 110}
    assert left(run) == [120, 110, 100, 95, 90, 70, 60, 40, 20], "without --yes nothing is deleted"
    assert all(one.bytes >= 50 for one in found)
    prune(str(run.folder), True, print)
    assert left(run) == [120, 95, 40]
    assert removable(run) == [] and run.facts().state == "finished"


def test_a_run_that_is_not_finished_keeps_what_its_spec_says(tmp_path: Path) -> None:
    run = a_run(tmp_path, checkpoints=ALL, train__keep_every=30)
    assert {step_of(one.folder) for one in removable(run)} == {20}
    fewer = a_run(tmp_path / "fewer", checkpoints=ALL, train__keep_checkpoints=2)
    assert {step_of(one.folder) for one in removable(fewer)} == {20, 60, 90, 100}


def test_the_last_checkpoint_has_a_predecessor_if_it_is_not_whole(tmp_path: Path) -> None:
    run = a_run(tmp_path, FINISHED, checkpoints=ALL)
    (place(run.checkpoints, 120) / "blocks-0.safetensors").write_bytes(b"x" * 99)
    assert {step_of(one.folder) for one in removable(run)} == {20, 60, 90}


def test_states_that_a_roll_back_may_need_stay_also_before_the_decay(tmp_path: Path) -> None:
    guard = {"guard__spike": 9.0, "guard__roll_back": 50, "guard__recheck_every": None}
    run = a_run(tmp_path, FINISHED, checkpoints={**ALL, 50: ""}, **guard)
    assert {step_of(one.folder) for one in removable(run)} == {20, 60, 90, 110}, (
        "50 is a multiple before 95, 100 one before 120"
    )


def test_what_a_cut_has_undone_goes(tmp_path: Path) -> None:
    cut = event_at(128, "left_out", step=119, node="n", reason="r", trusted=95, to=95, cut="c0ffee00")
    run = a_run(tmp_path, cut, checkpoints={90: "", 95: "", 110: "", 100: "c0ffee00", 105: "elsewhere"})
    found = removable(run)
    assert [(step_of(one.folder), "undone" in one.why) for one in found] == [(110, True)]
    prune(str(run.folder), True, print)
    assert completed_steps(run.checkpoints, run.lineage()) == [100, 95, 90]


def test_a_run_that_is_running_is_left_alone(tmp_path: Path) -> None:
    run, said = a_run(tmp_path, FINISHED, checkpoints=ALL), list[str]()
    with RunLock(run.folder, print):
        assert prune(str(tmp_path), True, said.append) == []
    assert said == [f"{run.folder}: a command is running it, which prunes by itself"]
    assert len(left(run)) == len(ALL)


def test_a_run_that_cannot_be_read_does_not_keep_the_others_from_being_pruned(tmp_path: Path) -> None:
    run, said = a_run(tmp_path, FINISHED, checkpoints=ALL), list[str]()
    for name in ("a", "z"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "spec.yaml").write_bytes(b"\xff\xfe")
        (tmp_path / name / "data.json").write_text("{}")
    deleted = prune(str(tmp_path), True, said.append)
    assert len(left(run)) == len(ALL) - len(deleted) < len(ALL)
    assert [line.split()[0] for line in said] == [f"{tmp_path}/a", *["deleted"] * len(deleted), f"{tmp_path}/z"]
    assert "is not UTF-8 text" in said[0]


def test_runs_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_run(tmp_path, FINISHED | {"time": time.time() - 3600}, checkpoints={120: ""})
    (tmp_path / "prepared").mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "spec.yaml").write_text("name: [")
    (broken / "data.json").write_text("{}")
    damaged, listed = runs_in(Store.at(tmp_path))
    assert (listed.name, listed.state, listed.step, listed.steps, listed.val_loss) == ("small", "finished", 120, 120, 2.2)
    assert listed.age_s is not None and 3600 <= listed.age_s < 3700 and listed.bytes > 100
    assert damaged.state == "damaged" and "is not valid YAML" in damaged.problem
    assert "120 of 120" in table([listed]) and "1 h 00 min ago" in table([listed])
    assert _run(["runs", str(tmp_path), "--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("2 runs, ") and json.loads(last)[1]["val_loss"] == 2.2
    assert _run(["prune", str(tmp_path / "small")]) == 0
    assert capsys.readouterr().out == "can be deleted: 0 checkpoints, 0 B\n"


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there: name the folder"):
        runs_in(Store.at(tmp_path / "none"))
    with pytest.raises(InputError, match="is neither a run nor a storage folder"):
        prune(str(tmp_path / "none"), True, print)
