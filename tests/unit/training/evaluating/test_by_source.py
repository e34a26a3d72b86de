"""The validation loss of each source: which samples are its own, the same mean as alone, and the same for any workers."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from tests.unit.data.manifests import manifest

from foundray.data.stream.manifests import keep
from foundray.data.stream.plan import StreamPlan
from foundray.data.stream.validation import Part, part_of
from foundray.spec import Spec
from foundray.testing.groups import run_group
from foundray.testing.specs import IMAGES, make_spec
from foundray.testing.trainers import make_team_trainer, make_trainer, micro_batch
from foundray.training.collectives.group import Group
from foundray.training.evaluating.evaluation import SourceRows, evaluate
from foundray.training.step.outcome import Evaluation
from foundray.training.telemetry.likelihood import BytesPerToken, with_meaning
from foundray.wording.sentences import sentence

MIXED = {0: [(0, 2)], 1: [(0, 1), (1, 1)], 2: [(1, 2)], 3: [(1, 1), (2, 1)]}
"""Sources of four micro-batches of two samples: three, three and one in all, and a fourth source without any."""


def part(rows: list[list[int]], samples: int | str, size: int = 8) -> Part:
    plan = StreamPlan("nowhere", keep(manifest(rows)), (1.0,) * len(rows), 0.1, 7, size, json.dumps({"width": 1}))
    spec = make_spec(train__micro_batch_size=size, evaluate__sets={"validation": {"samples": samples}})
    return part_of(plan, spec, plan.order().validation_sizes, last=False)


def test_a_micro_batchs_sources_are_those_of_its_addresses() -> None:
    for samples in ("whole", 640):
        chosen = part([[6_010], [40], [9_333]], samples)
        order = chosen.plan.order()
        seen = 0
        for position in range(chosen.micro_batches):
            found = [source for source, count in chosen.sources(position) for _ in range(count)]
            index, size = chosen.plan.split_index(position), chosen.plan.micro_batch_size
            shards = order.validation(index * size, size).shard
            assert found == [order.manifest.shards[shard].source for shard in shards]
            seen += len(found)
        assert seen == chosen.samples


def by_source(group: Group, spec: Spec | None = None, team: int | None = None) -> Evaluation:
    spec = spec or make_spec()
    trainer = make_team_trainer(spec, group, team) if team else make_trainer(spec, group)
    mine = [(i, micro_batch(spec, i)) for i in range(group.rank, len(MIXED), group.world)]
    return evaluate(trainer, mine, SourceRows(MIXED.__getitem__, 4))


def test_the_whole_is_as_without_sources_and_each_source_as_if_it_were_alone() -> None:
    spec = make_spec()
    trainer = make_trainer(spec)
    for _, parameter in trainer.model.named_parameters():
        parameter.data += 0.05 * parameter.data.abs().mean() + 0.01  # a head of zeros gives every token the same loss
    batches = [(i, micro_batch(spec, i)) for i in MIXED]
    plain, found = evaluate(trainer, batches), evaluate(trainer, batches, SourceRows(MIXED.__getitem__, 4))
    assert replace(found, sources=()) == plain
    assert [one.source for one in found.sources] == [0, 1, 2]
    assert sum(one.tokens for one in found.sources) == plain.tokens
    total = sum(one.loss * one.tokens for one in found.sources)
    assert total / plain.tokens == pytest.approx(plain.loss, rel=1e-6)
    assert len({one.loss for one in found.sources}) == 3


def test_it_is_the_same_for_any_number_of_workers() -> None:
    alone = by_source(Group())
    assert run_group(3, by_source) == [alone] * 3
    for teams, size in ((1, 3), (2, 2)):
        assert run_group(teams * size, by_source, None, size) == [alone] * teams * size, (teams, size)


def test_coupled_samples_of_two_sources_count_for_none() -> None:
    spec = make_spec(**{**IMAGES, "objective": {"kind": "contrastive"}})
    assert spec.objective.build().couples
    assert {one.source for one in by_source(Group(), spec).sources} == {0, 1}


def test_a_record_says_what_a_loss_means() -> None:
    spec = make_spec(data__sources=[{"path": "a/en.txt"}, {"path": "b/de.txt"}])
    record = {
        "event": "evaluated", "step": 5, "val_loss": math.log(8),
        "sources": [{"source": 0, "loss": math.log(4), "tokens": 3}, {"source": 1, "loss": 2000.0, "tokens": 1}],
    }  # fmt: skip
    found = with_meaning(record, spec, BytesPerToken(2.0, (4.0, 0.0)))
    assert (found["bits_per_byte"], found["perplexity"]) == pytest.approx((1.5, 8.0))
    first, second = found["sources"]
    assert (first["name"], first["bits_per_byte"], first["perplexity"]) == ("0 en.txt", pytest.approx(0.5), pytest.approx(4.0))
    assert second == {"source": 1, "loss": 2000.0, "tokens": 1, "name": "1 de.txt", "perplexity": math.inf}
    loss = "validation loss 2.0794 nats per token (perplexity 8), 1.5000 bits per byte"
    assert sentence(found) == f"step 5: {loss}; 0 en.txt 1.3863; 1 de.txt 2000.0000"
    assert "perplexity" not in with_meaning(record, spec, None), "the loss is no likelihood"
