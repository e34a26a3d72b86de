"""Tasks by likelihood: what a line may hold, which tokens are asked for, and measures by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from foundray.data.tokenizers.tokenizer import make_bytes, train_bpe
from foundray.errors import InputError
from foundray.testing.specs import make_spec
from foundray.testing.trainers import make_model
from foundray.training.evaluating.tasks.items import read_items
from foundray.training.evaluating.tasks.measures import chance, flat, judge, measured, questions_of
from foundray.training.evaluating.tasks.requests import Request
from foundray.training.evaluating.tasks.scoring import Likelihood, batches, by_frequency, by_model, score_batch

BYTES = make_bytes()
CONTEXT = 12


def lines(*items: Any) -> bytes:
    return "".join(json.dumps(item) + "\n" for item in items).encode()


def questions(*items: Any, delimiter: str = ""):  # type: ignore[no-untyped-def]
    return questions_of(read_items(lines(*items), "f", delimiter), BYTES, CONTEXT, "f")


def ids(text: str) -> list[int]:
    return [0, *(byte + 1 for byte in text.encode())]


def test_every_form_of_a_line_has_its_kind() -> None:
    forms = {
        "choice": [
            {"context": "a", "choices": ["b", "c"], "answer": 1},
            {"text": "a ___ b", "choices": ["x", "y"], "answer": "y"},
        ],
        "answer": [{"context": "", "answer": "b"}],
        "pair": [{"good": "a", "bad": "b"}, {"sentence_good": "a", "sentence_bad": "b", "UID": "anaphor", "pairID": "3"}],
        "text": [{"text": "いろは", "group": "ja"}],
    }
    for kind, items in forms.items():
        assert {item.kind for item in read_items(lines(*items), "f")} == {kind}
    first, gap = read_items(lines(*forms["choice"]), "f", " ")
    assert [(one.context, one.text, one.said) for one in first.candidates] == [("a", " b", "b"), ("a", " c", "c")]
    assert [(one.context, one.text, one.said) for one in gap.candidates] == [("a ", "x b", "x"), ("a ", "y b", "y")]
    assert (first.gold, gap.gold) == (1, 1)
    assert len(read_items(lines(*[{"text": "a"}] * 9), "f", limit=4)) == 4


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ({"context": "a", "choices": ["b"], "answer": 0}, "choices is a list of two or more non-empty texts"),
        (
            {"context": "a", "choices": ["b", "c"], "answer": 2},
            "answer is one of the choices, or its number from 0 to 1",
        ),
        ({"context": "a", "choices": ["b", "c"], "answer": True}, "answer is one of the choices"),
        ({"text": "no gap", "choices": ["b", "c"], "answer": 0}, "text must have one gap, written ___"),
        ({"good": "a", "bad": ""}, "bad is non-empty text, not ''"),
        ({"context": 3, "answer": "b"}, "context is text, not 3"),
        ({"question": "a"}, "it has the fields question; a line has context, choices and answer"),
        ([1], "it is no JSON object"),
        ({"text": "a\ud800"}, "it holds half a surrogate pair"),
        ({"text": "a", "group": 3}, "group is text, not 3"),
    ],
)
def test_a_bad_line_is_named(item: Any, problem: str) -> None:
    with pytest.raises(InputError) as refused:
        read_items(lines(item), "f.jsonl")
    assert str(refused.value).startswith(f"f.jsonl, line 1: {problem}")


def test_a_file_of_two_kinds_or_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="line 3: this item is of the kind pair, and the first of the kind text"):
        read_items(lines({"text": "a"}) + b"\n" + lines({"good": "a", "bad": "b"}), "f")
    with pytest.raises(InputError, match="it has no items"):
        read_items(b"\n \n", "f")
    with pytest.raises(InputError, match="line 1: it is no JSON object"):
        read_items(b"\xff\n", "f")
    with pytest.raises(InputError, match="line 2: it is nested too deeply"):
        read_items(lines({"text": "a"}) + b"[" * 100_000, "f")
    for limit in (0, -1):
        with pytest.raises(InputError, match=f"limit: it is a number of items, 1 or more, not {limit}"):
            read_items(lines({"text": "a"}), "f", limit=limit)


def test_the_tokens_asked_for_are_those_after_the_context() -> None:
    (plain,) = questions({"context": "ab ", "answer": "cd"})
    [[request]] = plain.candidates
    assert (request.ids.tolist(), request.asked) == (ids("ab cd"), 3), "a space at the end of a context belongs to the answer"
    (long,) = questions({"context": "x" * 40, "answer": "cd"})
    [[request]] = long.candidates
    assert (request.ids.tolist(), request.asked) == (ids("x" * 40 + "cd")[-CONTEXT - 1 :], 2)
    with pytest.raises(InputError, match="f, item 1: 'yyyyyyyyyyyyy' has 13 tokens, and the model sees 12 at once"):
        questions({"context": "", "answer": "y" * 13})


def test_a_text_that_merges_into_its_context_is_named() -> None:
    merging = train_bpe(["which which"] * 50, 300)
    items = read_items(lines({"context": "whic", "answer": "h"}), "f")
    with pytest.raises(InputError, match="f, item 1: 'h' has no tokens of its own after its context"):
        questions_of(items, merging, CONTEXT, "f")


@pytest.mark.parametrize("length", [1, 11, 12, 13, 24, 25, 40])
def test_a_long_text_is_asked_for_once_token_by_token(length: int) -> None:
    text = "".join(chr(97 + index % 26) for index in range(length))
    ((question,),) = (questions({"text": text}),)
    (windows,) = question.candidates
    assert all(len(window.ids) <= CONTEXT + 1 and window.asked < len(window.ids) for window in windows)
    assert np.concatenate([window.ids[-window.asked :] for window in windows]).tolist() == ids(text)[1:]
    assert [len(window.ids) - 1 for window in windows[1:]] == [CONTEXT] * (len(windows) - 1), "as full as the context allows"


def test_measures_by_hand() -> None:
    asked = questions(
        {"context": "", "choices": ["aa", "b"], "answer": 0, "group": "x"},
        {"context": "", "choices": ["a", "bbbb"], "answer": 1, "group": "y"},
    )
    log_probs = [-3.0, -2.0, -1.0, -3.0]
    score = measured(asked, [Likelihood(one, False) for one in log_probs])
    accuracy, by_length, bits = score.measures
    assert (accuracy.value, accuracy.error) == (0.0, 0.0)
    assert (by_length.value, by_length.error) == (1.0, 0.0), "-3/2 is more than -2, and -3/4 than -1"
    assert bits.value == pytest.approx(6 / math.log(2) / 6)
    assert {name: one.value for name, one in score.groups.items()} == {"x": 0.0, "y": 0.0}
    assert chance(asked) == 0.5
    (one, two, three) = (measured(asked, [Likelihood(x, False) for x in row]).measures[0] for row in ([0, -1, 0, -1],) * 3)
    assert (one.value, one.error) == (0.5, pytest.approx(0.5)), "half right of two: the deviation 0.707 by the root of 2"
    assert one == two == three


def test_a_floor_that_ties_is_half_right() -> None:
    swapped = questions(*({"good": f"ab {number}", "bad": f"ba {number}"} for number in range(9)))
    frequencies = by_frequency(np.arange(BYTES.vocabulary))
    assert judge(swapped, frequencies, share_ties=True).measures[0].value == 0.5, "the same tokens in another order"
    three = questions({"context": "", "choices": ["a", "b", "cc"], "answer": 1})
    equal = [Likelihood(-1.0, False)] * 3
    by_hand = {ties: [one.value for one in measured(three, equal, ties).measures[:2]] for ties in (True, False)}
    assert by_hand == {True: [1 / 3, 0.0], False: [0.0, 0.0]}, "per character the longest is the likeliest"
    assert measured(three, [Likelihood(-1.0, False), Likelihood(-0.9, False), equal[0]], True).measures[0].value == 1.0


def test_a_ratios_error_is_that_of_a_bootstrap() -> None:
    rng = np.random.default_rng(0)
    texts = ["y" * int(size) for size in rng.integers(1, CONTEXT, 400)]
    bits = np.array([len(text) * rng.normal(2, 0.5) + rng.normal(0, 1) for text in texts])
    asked = questions(*({"context": "", "answer": text} for text in texts))
    measure = measured(asked, [Likelihood(-one * math.log(2), False) for one in bits]).measures[0]
    sizes = np.array([len(text) for text in texts])
    drawn = rng.integers(0, 400, (2000, 400))
    assert measure.error == pytest.approx((bits[drawn].sum(1) / sizes[drawn].sum(1)).std(), rel=0.1)


def test_a_batch_gives_each_request_what_it_has_alone() -> None:
    model = make_model(make_spec(model__context=CONTEXT), BYTES.vocabulary).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    asked = flat(questions({"text": "abcdefghijklmnopqrst"}, {"text": "b"})) + flat(
        questions({"context": "ab", "choices": ["cdefg", "c"], "answer": 0})
    )
    together = by_model(model)(asked)
    for request, found in zip(asked, together, strict=True):
        (alone,) = score_batch(model, [request])
        assert found.log_prob == pytest.approx(alone.log_prob, abs=1e-4)
        with torch.no_grad():  # by hand, through the whole model
            states = model.model(model.model.embed(torch.tensor(request.ids[None, :-1]), None), None, True, None, None)
            log_probs = model.lm_head(states)[0].log_softmax(-1)
        by_hand = sum(float(log_probs[-request.asked + i, t]) for i, t in enumerate(request.ids[-request.asked :]))
        assert alone.log_prob == pytest.approx(by_hand, abs=1e-4)
    assert judge(questions({"text": "abc"}), by_model(model)).measures[0].error is None


def test_batches_hold_every_request_once_and_never_too_many_tokens() -> None:
    requests = [Request(np.zeros(length, np.int64), 1) for length in [*range(2, 2000, 7), 9000, 2]]
    found = batches(requests)
    assert sorted(index for batch in found for index in batch) == list(range(len(requests)))
    assert all(len(batch) == 1 or len(batch) * max(len(requests[i].ids) for i in batch) <= 8192 for batch in found)


def test_frequencies_know_no_context() -> None:
    counts = np.zeros(BYTES.vocabulary)
    counts[ids("a")[1]] = 300
    asked = questions(
        {"context": "zz", "choices": ["a", "b"], "answer": 0}, {"context": "", "choices": ["b", "a"], "answer": 1}
    )
    score = judge(asked, by_frequency(counts))
    assert score.measures[0].value == 1.0
    p = 301 / (300 + BYTES.vocabulary)
    assert score.measures[2].value == pytest.approx(-math.log2(p))
