"""A run that continues from another's checkpoint, under another spec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from foundray.errors import InputError
from foundray.inspection.auditing.events import judge_events
from foundray.runs.checkpoints import Keep, completed, completed_steps
from foundray.runs.run import BRANCHING, Run
from foundray.testing.runs import run_with_checkpoint
from foundray.testing.trainers import load_latest, make_trainer, save_checkpoint
from foundray.training.branching import branch
from foundray.training.checkpoints.checkpoint import read_state, state_sha256
from foundray.training.rollback import RollBack, passed_over, recorded, trusted

CHANGES = {"name": "colder", "schedule.decay_steps": 4, "train.steps": 9, "optimizer.lr": 1e-3}


def parent_in(storage: Path, **changes: Any) -> Run:
    made = run_with_checkpoint(storage, name="parent", scale__threads=1, **changes)
    data = json.loads((made.folder / "data.json").read_text())
    (made.folder / "data.json").write_text(json.dumps({**data, "folder": str(storage / "prepared" / "0")}))
    return made


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return parent_in(tmp_path)


def made_by(run: Run, **overrides: Any) -> Run:
    return branch(run, None, {**CHANGES, **overrides}, lambda line: None)


def test_it_has_the_state_and_says_where_it_is_from(run: Run) -> None:
    made = made_by(run)
    spec, there = made.spec(), run.spec()
    assert (spec.name, spec.train.steps, spec.schedule.decay_steps) == ("colder", 9, 4)
    (before,), (after,) = completed(run.checkpoints), completed(made.checkpoints)
    sha = state_sha256(read_state(before)[1])
    assert state_sha256(read_state(after)[1]) == sha and completed_steps(made.checkpoints) == [3]
    assert spec.branch_from and (spec.branch_from.step, spec.branch_from.state_sha256) == (3, sha)
    assert spec.branch_from.run == run.folder.url
    # A worker loads it as a checkpoint of this run.
    manifest, _ = load_latest(made.checkpoints, make_trainer(spec), spec.fingerprint())
    assert manifest.step == 3
    (event,) = made.records("events.jsonl")
    assert event["fingerprint"] == there.fingerprint() and event["changed"]["optimizer.lr"] == [4e-3, 1e-3]
    assert set(event["changed"]) == {"optimizer.lr", "train.steps", "schedule.decay", "schedule.decay_steps"}
    facts = made.facts()
    assert (facts.state, facts.step, facts.checkpoint) == ("interrupted", 3, 3)
    assert facts.branch_from == spec.branch_from.model_dump()
    # The same once more is the same run; another spec under its name is refused.
    assert made_by(run).folder.url == made.folder.url
    with pytest.raises(InputError, match=r"was made by another spec: optimizer.lr was 0.001 and is 0.002"):
        made_by(run, **{"optimizer.lr": 2e-3})


def test_it_is_another_run_than_one_from_scratch_wherever_its_parent_is(run: Run) -> None:
    spec = made_by(run).spec()
    assert spec.fingerprint() != spec.model_copy(update={"branch_from": None}).fingerprint()
    moved = spec.branch_from and spec.branch_from.model_copy(update={"run": "/elsewhere"})
    assert spec.fingerprint() == spec.model_copy(update={"branch_from": moved}).fingerprint()
    assert "branch_from" not in "".join(run.spec().identity())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"model.width": 64}, "--set model.width: a branch continues with the state of step 3"),
        ({"data.tokenizer.kind": "char"}, "--set data.tokenizer.kind"),
        ({"optimizer.kind": "adamw"}, "--set optimizer.kind"),
        ({"train.micro_batches": 4}, "--set train.micro_batches"),
        ({"data.sources.0.path": "elsewhere"}, "--set data.sources.0.path"),
        ({"seed": 7}, "--set seed"),
        ({"train.steps": 3, "schedule.decay_steps": 1}, "train.steps: 3 is not after step 3"),
        ({"train.steps": None, "train.epochs": 2}, "--set train.epochs: give a branch's length in train.steps"),
        ({"name": "parent"}, "--set name=parent: .* is the run to branch from"),
        ({"name": "prepared"}, "--set name: .* is reserved for prepared data"),
        ({"evaluate.tasks": {"t": {"path": "none.jsonl"}}}, r"none\.jsonl cannot be read"),
        ({"evaluate.sets": {"s": {"path": "none.txt"}}}, r"none\.txt"),
    ],
)
def test_what_the_state_does_not_fit_is_refused(overrides: dict[str, Any], said: str, run: Run, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=said) as refused:
        made_by(run, **overrides)
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_no_run_is_left_as_it_is(run: Run, tmp_path: Path) -> None:
    mine = tmp_path / "colder" / "metrics" / "mine.csv"
    mine.parent.mkdir(parents=True)
    mine.write_text("1,2")
    with pytest.raises(InputError, match="holds metrics, and is no run: give the branch another name"):
        made_by(run)
    assert mine.read_text() == "1,2"


def test_what_an_interrupted_branch_has_made_does_not_count(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "colder"
    (folder / "checkpoints" / "step-00000007").mkdir(parents=True)
    (folder / "checkpoints" / "step-00000007" / "manifest.json").write_text("{}")
    (folder / BRANCHING).write_text("")
    (folder / ".holder.lock").write_text("")
    made = made_by(run)
    assert completed_steps(made.checkpoints) == [3] and not (folder / BRANCHING).exists()


def test_its_paths_are_absolute_and_fields_that_are_too_late_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.folder.parent.path)
    Path("items.jsonl").write_text('{"text": "a"}\n')
    task = {"evaluate.tasks": {"t": {"path": "items.jsonl"}}}
    assert made_by(run, **task).spec().evaluate.tasks["t"].path == f"{run.folder.parent}/items.jsonl"
    lines: list[str] = []
    branch(run, None, CHANGES | task, lines.append)
    branch(run, None, CHANGES | task | {"evaluate.text_tokens": 3}, lines.append)
    assert lines[0].endswith("is this branch already; it continues")
    assert "it continues with the fields that it has (evaluate.text_tokens was 48 and is 3)" in lines[1]


def test_a_step_without_a_checkpoint_is_refused(run: Run) -> None:
    with pytest.raises(InputError, match=r"--step 2: .* has no complete checkpoint of it; it has those of steps 3"):
        branch(run, 2, CHANGES, lambda line: None)


def test_a_step_inside_the_decay_is_named_with_a_checkpoint_from_before(tmp_path: Path) -> None:
    """The decay is all but the first of 12 steps."""
    run = parent_in(tmp_path, schedule__decay=0.9)
    lines: list[str] = []
    branch(run, None, CHANGES, lines.append)
    caution = "at step 3 the learning rate is already decaying, as it does after step 1: "
    assert lines[0] == f"{caution}no checkpoint from before is left"
    save_checkpoint(run.checkpoints, make_trainer(run.spec()), 1, run.spec().fingerprint(), keep=3)
    branch(run, 3, CHANGES | {"name": "again"}, lines.append)
    assert lines[2] == f"{caution}--step 1 takes the checkpoint from before"
    branch(run, 1, CHANGES | {"name": "warm"}, lines.append)
    assert len(lines) == 5 and "decaying" not in lines[4]


def test_a_mixture_may_change(tmp_path: Path, run: Run) -> None:
    assert made_by(run, **{"data.sources.0.weight": 3.0}).spec().data.sources[0].weight == 3


def test_the_checkpoint_that_it_began_with_is_kept(run: Run) -> None:
    spec = made_by(run).spec()
    assert 3 in Keep.by(spec).of([9, 8, 7, 6, 3])


def test_a_data_offset_goes_along() -> None:
    event = {"event": "branched", "step": 30, "passed_over": 17}
    turns = recorded([event])
    assert [passed_over(turns, step) for step in (30, 100)] == [17, 17]
    assert trusted(turns, 30) == turns == (RollBack(0, 0, 17),)
    assert recorded([event | {"passed_over": 0}]) == ()


def test_the_audit_compares_the_record_with_the_spec(run: Run) -> None:
    made = made_by(run)
    events, spec = made.records("events.jsonl"), made.spec()
    assert judge_events(events, [], spec) == []
    for wrong in ([], [*events, *events], [events[0] | {"step": 4}], [events[0] | {"state_sha256": "0" * 64}]):
        assert [text.partition(":")[0] for text in judge_events(wrong, [], spec)] == ["branched"]
    assert judge_events(events, [], run.spec())
