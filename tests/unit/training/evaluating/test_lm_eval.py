"""Agreement with EleutherAI's lm-eval on the exported model: the same items, the same numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.repository import REPOSITORY

from foundray.data.tokenizers.tokenizer import Tokenizer, make_bytes, train_bpe
from foundray.exports import causal_lm
from foundray.exports.tokens import to_hugging_face
from foundray.model.model import Model
from foundray.spec import Spec
from foundray.testing.specs import make_spec
from foundray.testing.trainers import make_model
from foundray.training.evaluating.tasks.items import read_items
from foundray.training.evaluating.tasks.measures import Measure, judge, questions_of
from foundray.training.evaluating.tasks.scoring import by_model

BESIDE = REPOSITORY / ".venv" / "lm-eval"
"""Where `make lm-eval` puts it."""

TEXTS = [
    "the cat sat on the mat and the dog sat on the log, and nobody knew why",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich",
    "いろはにほへと ちりぬるを わかよたれそ つねならむ",
]
CHOICES: list[dict[str, Any]] = [
    {"context": "the cat sat on", "choices": [" the mat", " a log", " why"], "answer": 0},
    {"context": "the dog ", "choices": ["sat on the log", "knew"], "answer": 1},
    {"context": "", "choices": ["the cat", "Zwölf Boxkämpfer", "いろは"], "answer": 2},
    {
        "context": "a context that is far longer than this small model can see, so that its start is cut off: nobody ",
        "choices": ["knew why", "sat on the mat and the dog sat"],
        "answer": 0,
    },
]


@pytest.fixture(scope="module", autouse=True)
def harness() -> Iterator[None]:
    """lm-eval, found beside the installed packages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(BESIDE)])
        pytest.importorskip("lm_eval", reason="lm-eval is not here: `make lm-eval` puts it into a folder of its own")
        yield


@pytest.fixture(scope="module", params=["bytes", "bpe"])
def trained(request: pytest.FixtureRequest) -> tuple[Spec, Model, Tokenizer]:
    tokenizer = make_bytes() if request.param == "bytes" else train_bpe(TEXTS * 20, 300)
    spec = make_spec()
    model = make_model(spec, tokenizer.vocabulary)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return spec, model.eval(), tokenizer


def asked(
    folder: Path, trained: tuple[Spec, Model, Tokenizer], items: list[dict[str, Any]], config: dict[str, Any], opened: bool
) -> Any:
    """What lm-eval measures on the exported model; `opened`: texts are opened by the document token."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    spec, model, tokenizer = trained
    file = folder / "items.jsonl"
    file.write_text("".join(json.dumps(item) + "\n" for item in items))
    stock = causal_lm.build(model, spec)
    fast = to_hugging_face(tokenizer.to_json(), tokenizer.document_id, tokenizer.vocabulary, (), {}, spec.model.context, True)
    there = HFLM(
        pretrained=stock, tokenizer=fast, add_bos_token=opened, batch_size=2, device="cpu", max_length=spec.model.context
    )
    task = {"task": "own", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}, "test_split": "test"}
    own = TaskManager(include_defaults=False)  # its own tasks are thousands of files
    found = simple_evaluate(model=there, tasks=[task | config], task_manager=own, bootstrap_iters=0, verbosity="ERROR")
    return found["results"]["own"]


def here(trained: tuple[Spec, Model, Tokenizer], items: list[dict[str, Any]]) -> list[Measure]:
    spec, model, tokenizer = trained
    read = read_items("".join(json.dumps(item) + "\n" for item in items).encode(), "items")
    return judge(questions_of(read, tokenizer, spec.model.context, "items"), by_model(model)).measures


def test_multiple_choice(tmp_path: Path, trained: tuple[Spec, Model, Tokenizer]) -> None:
    items = [{**item, "answer": (item["answer"] + shift) % len(item["choices"])} for item in CHOICES for shift in (0, 1)]
    config = {
        "output_type": "multiple_choice", "doc_to_text": "{{context}}", "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer", "target_delimiter": "", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }  # fmt: skip
    there = asked(tmp_path, trained, items, config, opened=True)
    accuracy, by_length, _ = here(trained, items)
    assert (accuracy.value, by_length.value) == (there["acc,none"], there["acc_norm,none"])


def test_rolling_likelihood(tmp_path: Path, trained: tuple[Spec, Model, Tokenizer]) -> None:
    items = [{"text": text} for text in [*TEXTS, "short", TEXTS[0] * 5]]
    metrics = [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")]
    config = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}", "metric_list": metrics}
    there = asked(tmp_path, trained, items, config, opened=False)  # it opens these by itself
    bits, words = here(trained, items)
    assert bits.value == pytest.approx(there["bits_per_byte,none"], abs=1e-4)
    assert words.value == pytest.approx(there["word_perplexity,none"], rel=1e-4)
