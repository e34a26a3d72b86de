"""What an evaluation judges besides the loss: alike for any number of workers, when due, and without a trace in the weights."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from tests.unit.data.manifests import manifest

from foundray.data.prepare.manifest import Prepared
from foundray.data.stream.plan import plan_for
from foundray.data.tokenizers.tokenizer import Tokenizer, make_bytes, make_char
from foundray.errors import InputError
from foundray.records.schema import EVENTS
from foundray.runs.run import Run
from foundray.spec import SourceConfig, Spec
from foundray.storage import Store
from foundray.testing.groups import run_group
from foundray.testing.records import untimed_event
from foundray.testing.specs import make_spec
from foundray.testing.trainers import make_team_trainer, make_trainer, micro_batch
from foundray.training.checkpoints.checkpoint import MASTER, weights_sha256
from foundray.training.collectives.group import Group
from foundray.training.elastic.judging import Judging
from foundray.training.evaluating.tasks import scoring
from foundray.training.evaluating.tasks.kept import check_tasks, keep_tasks
from foundray.training.evaluating.texts import continued
from foundray.training.prompts import prompts_of
from foundray.training.step.trainer import Trainer
from foundray.wording.sentences import sentence

TOKENIZER = make_bytes()
TEAMS = ((1, 2), (2, 2))
"""(teams, workers per team)"""
ITEMS = [
    {"context": "ab" * number, "choices": ["cdefgh"[: number % 5 + 1], "xyz"], "answer": number % 2} for number in range(1, 12)
]


def spec_of(folder: Path, **evaluate: Any) -> Spec:
    tasks = {
        "often": {"path": str(folder / "items.jsonl"), "limit": 4},
        "seldom": {"path": str(folder / "items.jsonl"), "every": 8, "delimiter": " "},
    }
    return make_spec(train__evaluate_every=4, train__steps=20, evaluate={"tasks": tasks, "text_tokens": 5, **evaluate})


def judging(folder: Path, spec: Spec, group: Group, team: int | None = None) -> tuple[Judging, Trainer]:
    """Of random weights; with `team`, that number of workers hold one copy of them between them."""
    classes = TOKENIZER.vocabulary
    trainer = make_team_trainer(spec, group, team, classes) if team else make_trainer(spec, group, vocabulary=classes)
    generator = torch.Generator().manual_seed(3)
    for entry in trainer.layout.entries:
        trainer.overwrite(MASTER, entry.name, torch.randn(entry.shape, generator=generator) * 0.3)
    plan = SimpleNamespace(planning=json.dumps({"document_id": TOKENIZER.document_id}))
    work = SimpleNamespace(run=str(folder / "run"), plan=plan, prompts=("ab", ""), rewrites=())
    return Judging(cast(Any, work), spec, trainer), trainer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    run = Run(Store.at(str(tmp_path / "run")))
    (run.folder / "tokenizer.json").write_text(TOKENIZER.to_json())
    keep(run, spec_of(tmp_path))
    return tmp_path


def keep(run: Run, spec: Spec, tokenizer: Tokenizer = TOKENIZER) -> list[str]:
    """Keep the tasks of a run whose data were cut by this tokenizer; return what is reported."""
    data, lines = run.folder.parent / "data", list[str]()
    (data / "tokenizer.json").write_text(tokenizer.to_json())
    keep_tasks(run, spec, Prepared(data, manifest([[9]])), lines.append)
    return lines


def judged(group: Group, folder: str, done: int, team: int | None = None) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "TOKENS_PER_BATCH", 64)  # more batches than workers for one task, fewer for the other
        return judging(Path(folder), spec_of(Path(folder)), group, team)[0].judge(done)


def test_every_number_of_workers_finds_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = judged(Group(), str(folder), 20)
    assert run_group(3, judged, str(folder), 20) == [alone] * 3
    for teams, size in TEAMS:
        assert run_group(teams * size, judged, str(folder), 20, size) == [alone] * teams * size, (teams, size)
    first, second = alone["tasks"]
    assert (first["name"], first["kind"], first["items"], second["items"]) == ("often", "choice", 4, 11)
    assert list(first["measures"]) == ["accuracy", "accuracy_by_length", "bits_per_byte"]
    assert [one["prompt"] for one in alone["texts"]] == ["ab", ""]
    record = untimed_event("evaluated", step=20, val_loss=2.0, **alone)
    assert EVENTS["evaluated"].model_validate({"time": 1.0, **record})
    assert f"; often: accuracy {first['measures']['accuracy']:.4f} ± " in sentence(record)


def texts(group: Group, folder: str, team: int | None = None) -> list[str]:
    """Continue prompts by a model that ends some of the texts early, since its logit for that varies most."""
    subject, trainer = judging(Path(folder), spec_of(Path(folder), tasks={}, text_tokens=9), group, team)
    head = dict(trainer.weights())["lm_head.weight"]
    trainer.overwrite(MASTER, "lm_head.weight", head[: TOKENIZER.document_id + 1] * 2)
    cast(Any, subject.work).prompts = ("ab", "", "cde", "a longer one", "z")
    return [one["text"] for one in subject.judge(4)["texts"]]


def test_texts_of_different_lengths_are_those_of_one_worker(folder: Path) -> None:
    alone = texts(Group(), str(folder))
    assert min(map(len, alone)) < 5 and max(map(len, alone)) == 9
    assert run_group(2, texts, str(folder)) == [alone] * 2
    for teams, size in (*TEAMS, (1, 3)):
        assert run_group(teams * size, texts, str(folder), size) == [alone] * teams * size, (teams, size)


def test_a_task_is_due_at_its_interval_and_at_the_end(folder: Path) -> None:
    subject, _ = judging(folder, spec_of(folder), Group())
    due = {done: [task["name"] for task in subject.judge(done)["tasks"]] for done in (4, 8, 12, 20)}
    assert due == {4: ["often"], 8: ["often", "seldom"], 12: ["often"], 20: ["often", "seldom"]}
    assert len(subject.judge(12, ends_early=True)["tasks"]) == 2
    silent, _ = judging(folder, spec_of(folder, tasks={}, text_tokens=0), Group())
    assert silent.judge(4) == {}


def test_steps_after_it_are_as_without_it(folder: Path) -> None:
    spec = spec_of(folder)

    def trained(judge: bool) -> str:
        subject, trainer = judging(folder, spec, Group())
        for step in range(3):
            trainer.step(step, [(at, micro_batch(spec, at)) for at in range(step * 5, step * 5 + 5)])
            if judge:
                subject.judge(4)
        return weights_sha256(trainer.weights())

    assert trained(True) == trained(False)


def test_a_text_is_the_likeliest_token_each_time(folder: Path) -> None:
    _, trainer = judging(folder, spec_of(folder), Group())
    ids = [0, *(byte + 1 for byte in b"ab")]
    for _ in range(6):
        with torch.no_grad():
            states = trainer.model.model(trainer.model.model.embed(torch.tensor([ids]), None), None, True, None, None)
            chosen = int(trainer.model.lm_head(states)[0, -1].argmax())
        if chosen == 0:
            break
        ids.append(chosen)
    assert continued(trainer, TOKENIZER, "ab", 6) == TOKENIZER.decode(ids[3:])


def test_a_copy_stands_in_for_a_file_that_is_away(folder: Path) -> None:
    spec, run = spec_of(folder), Run(Store.at(str(folder / "run")))
    (folder / "items.jsonl").unlink()
    assert keep(run, spec) == []
    with pytest.raises(InputError, match=r"items\.jsonl"):
        check_tasks(spec)
    with pytest.raises(InputError, match=r"items\.jsonl"):
        keep(Run(Store.at(str(folder / "other"))), spec)


def test_an_item_that_cannot_be_scored_is_refused_before_the_run_is_there(folder: Path) -> None:
    run = Run(Store.at(str(folder / "other")))
    (folder / "items.jsonl").write_text(json.dumps({"context": "a", "answer": "b" * 33}))
    with pytest.raises(InputError, match=r"evaluate\.tasks\.often: .*items\.jsonl, item 1: "):
        keep(run, spec_of(folder))
    assert not run.folder.exists()


def test_texts_are_read_as_the_runs_data_and_what_is_unknown_is_counted(folder: Path) -> None:
    spec = spec_of(folder, prompts=["ac gt"], tasks={"t": {"path": str(folder / "items.jsonl")}})
    (folder / "items.jsonl").write_text(json.dumps({"context": "ac", "answer": "gtt"}))
    run, letters = Run(Store.at(str(folder / "run"))), make_char("ACGT")
    (line,) = keep(run, spec, letters)
    assert line.endswith("3 of the 3 tokens asked for are unknown to the run's tokenizer, which cannot tell them apart")
    genomes = spec.model_copy(
        update={"data": spec.data.model_copy(update={"sources": [SourceConfig(path="x", format="fasta")]})}
    )
    assert keep(run, genomes, letters) == []
    prepared = Prepared(run.folder, manifest([[9]]))
    assert prompts_of(genomes, plan_for(prepared, genomes), prepared) == ("ACGT",)


def test_what_no_run_can_do_is_refused(folder: Path) -> None:
    task = {"path": "x.jsonl"}
    with pytest.raises(InputError, match=r"evaluate\.tasks\.t\.every: it is a multiple of train\.evaluate_every, which is 100"):
        make_spec(evaluate__tasks={"t": {**task, "every": 150}})
    with pytest.raises(InputError, match=r"evaluate\.tasks: masked_token on text continues no text"):
        make_spec(objective={"kind": "masked_token"}, evaluate__tasks={"t": task})
    assert make_spec(evaluate__tasks={"t": task}, evaluate__prompts=["a"]).fingerprint() == make_spec().fingerprint()
