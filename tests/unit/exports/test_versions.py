"""Exports in the versions of transformers that their cards name, read by a Python without Foundray.

Other versions than the installed one are in folders that FOUNDRAY_TRANSFORMERS names, separated by colons, each made by
`pip install --target`; `make transformers` makes one of the oldest version.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from safetensors.torch import save_file
from tests import without_foundray
from tests.repository import REPOSITORY
from tests.unit.exports.models import KINDS, agent_numbers, exported, image_numbers, logits

from foundray.data.prepare.reader import Reader
from foundray.exports import causal_lm, decision_transformer, forms, mae, masked_lm
from foundray.exports.trained import Trained

transformers = pytest.importorskip("transformers")
MADE = REPOSITORY / ".venv" / "transformers"
"""Where `make transformers` puts other versions."""
SENTENCE = "It is one of the best"
READER = Path(__file__).with_name("stock_reader.py")


def others() -> list[Path]:
    named = [Path(name) for name in os.environ.get("FOUNDRAY_TRANSFORMERS", "").split(":") if name]
    return named or sorted(MADE.glob("*[0-9]"))


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of every kind, with our own model's numbers."""
    folder = tmp_path_factory.mktemp("exports")
    written = {kind: fact_of(folder, kind) for kind in KINDS}
    (folder / "facts.json").write_text(json.dumps(written))
    return folder


def fact_of(folder: Path, kind: str) -> dict[str, Any]:
    run, out, _ = exported(folder, kind)
    form = forms.form_of(run.spec)
    (code,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    numbers_of = {"images": image_numbers, "grey": image_numbers, "agents": agent_numbers}
    numbers, fact = numbers_of[kind](run) if kind in numbers_of else text_numbers(run, *said(kind))
    save_file(numbers, folder / f"{kind}.safetensors")
    code = code.replace(f'"{out.name}"', f'"{out}"')
    return fact | {"out": str(out), "code": code, "tried": form.tried(run.spec), "pipeline": form.pipeline(run.spec)}


def said(kind: str) -> tuple[str, list[str]]:
    """A text as a person writes it, and what the model should see: parts between which the mask token stands."""
    texts = {
        "genomes": ("acgu\nRtN", ["ACGTNTN"]),
        "masked": ("It is one <|mask|> the best", ["It is one", " the best"]),
    }
    return texts.get(kind, (SENTENCE, [SENTENCE]))


def text_numbers(run: Trained, text: str, parts: list[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    ours = Reader(run.run).tokenizer
    ids = [ours.document_id]
    for index, part in enumerate(parts):
        ids += [*[run.manifest.vocabulary] * (index > 0), *ours.encode([part])[0].tolist()]
    return {"logits": logits(run, ids).contiguous()}, {"text": text, "ids": ids, "rope_theta": run.spec.model.rope_theta}


OTHERS = [pytest.param(where, marks=pytest.mark.thorough) for where in others()]


@pytest.mark.parametrize("where", [None, *OTHERS], ids=lambda where: where.name if where else "installed")
def test_stock_classes_give_our_numbers(where: Path | None, facts: Path) -> None:
    """Weights, tokens, padded batches, pipelines and the card's code, for every kind whose card names the version."""
    said = without_foundray.run(READER.read_text(), facts, first=where)
    assert "transformers" in said


def test_the_oldest_version_is_tried_where_it_can_be_had() -> None:
    if not others():
        pytest.skip("only the installed transformers is tried: `make transformers` makes a folder of the oldest")


def test_cards_name_versions_that_can_be_tried() -> None:
    for form in (causal_lm, decision_transformer, mae, masked_lm):
        assert list(form.TRIED) == sorted(form.TRIED, key=Version)
