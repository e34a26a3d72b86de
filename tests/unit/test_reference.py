"""The reference page agrees with the code."""

from __future__ import annotations

import ast
import re

import pytest
from tests.repository import REPOSITORY

from foundray.contract import MODALITIES, OBJECTIVES, installed
from foundray.records.schema import EVENTS
from foundray.reference import markdown
from foundray.spec import flatten
from foundray.testing.specs import make_spec


@pytest.fixture(scope="module")
def page() -> str:
    return markdown()


def test_the_page_is_up_to_date(page: str) -> None:
    there = (REPOSITORY / "docs" / "spec.md").read_text()
    assert there == page, "write it again: foundray schema --markdown > docs/spec.md"


def test_every_field_of_a_spec_is_there_and_says_what_it_is(page: str) -> None:
    documented = set(re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE))
    given = flatten(make_spec(tune__space={"optimizer.lr": {"choice": [0.1]}}).model_dump(mode="json"))
    for name in given:
        general = re.sub(r"\.\d+(?=\.)", ".N", name).replace("tune.space.optimizer.lr", "tune.space.NAME")
        general = general.replace("evaluate.sets.validation", "evaluate.sets.NAME")
        general = re.sub(r"(resources)\.\w+$", r"\1", re.sub(r"\.\d+$", "", general))
        assert general in documented, name
    rows = re.findall(r"^\| `.*\|$", page, re.MULTILINE)
    assert [row for row in rows if row.rstrip("|").rstrip().endswith("|")] == [], "fields without a docstring"


def test_every_objective_and_modality_is_there(page: str) -> None:
    for path, group in (("objective", OBJECTIVES), ("data.modality", MODALITIES)):
        assert re.findall(rf"^#### {re.escape(path)}: (\w+)$", page, re.MULTILINE) == installed(group)


def test_types_and_bounds_are_in_words(page: str) -> None:
    for row in (
        "| `train.steps` | whole number > 0 or `null` | 1,000, without another length | yes | Optimizer steps in the run.",
        '| `schedule.kind` | one of `wsd`, `cosine`, `constant` | `"wsd"` | yes |',
        "| `optimizer.betas` | [number ≥ 0 and < 1, number ≥ 0 and < 1] | `[0.9, 0.95]` | yes |",
        "| `data.tokenizer.vocab_size` | whole number ≥ 257 or `null` | `null` | yes |",
        "| `scale.workers` | [whole number ≥ 0, whole number > 0] or `null` | `null` | no |",
        "| `train.checkpoint_every` | whole number > 0 or `auto` | `250` | no |",
        "| `objective.ratio` | number > 0 and < 1 | `0.4` |",
    ):
        assert row in page, row


def test_every_entry_of_the_contents_leads_somewhere(page: str) -> None:
    titles = re.findall(r"^#{2,4} (.+)$", page, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    links = re.findall(r"^ *- \[.+\]\(#(.+)\)$", page, re.MULTILINE)
    assert len(links) == len(titles) == len(anchors)
    assert set(links) == anchors


def test_every_kind_of_event_that_the_code_records_is_there_with_its_fields() -> None:
    recorded = 0
    for file in (REPOSITORY / "platform" / "foundray" / "training").rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if not isinstance(call, ast.Call) or not call.args:
                continue
            called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            kind = call.args[0].value if isinstance(call.args[0], ast.Constant) else None
            if called in ("event", "note", "_note") and isinstance(kind, str):
                recorded += 1
                fields = {keyword.arg for keyword in call.keywords} - {None}  # None: a mapping's own
                assert fields < set(EVENTS[kind].model_fields), (file.name, kind)
    assert recorded >= 20
