"""GGUF files: llama.cpp itself has the same tokens, probabilities and texts as our model, or the export is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.exports.llama_server import Asked, served
from tests.unit.exports.models import KINDS, exported, logits, trained
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Engine

from foundray.data.prepare.reader import Reader
from foundray.data.tokenizers.tokenizer import UNKNOWN, make_bytes, make_char, train_bpe
from foundray.errors import InputError
from foundray.evaluation.encoder import model_of
from foundray.exports import causal_lm
from foundray.exports.gguf import save
from foundray.exports.gguf_vocabulary import LLAMA3, SPLITS, Vocabulary, check
from foundray.exports.tokens import to_hugging_face
from foundray.exports.trained import Trained
from foundray.exports.writing import write
from foundray.storage import Store
from foundray.testing.specs import make_spec

TEXTS = [
    "It is one of the best", "Hello  world,\n\tdef f(x): return x .", "“é” naïve 日本 שלום हिन्दी 🙂\u200d🙂 \x00",
    "3.14 12345 ²Ⅷ٣ x1y22",
    " \n\n\n  a \r\n\r\n b\u00a0\u3000c\t", "we've I'LL they’re 's're", "", " ",
]  # fmt: skip
PROMPT = "It is one of"
RUNNING = ["llama", "bytes", "characters", "biased", "granite", "middle", "spans"]
"""Kinds that llama.cpp runs."""
RUNS = pytest.mark.usefixtures("llama_cpp")


@pytest.fixture(scope="module")
def llama_cpp() -> None:
    """What writes its files, and itself."""
    pytest.importorskip("gguf", reason="gguf is not installed: pip install 'foundray[export]'")
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'foundray[dev]'")


def prompt_of(run: Trained) -> list[int]:
    return [run.manifest.document_id, *Reader(run.run).tokenizer.encode([PROMPT])[0].tolist()]


def apart(there: Asked, run: Trained, ids: list[int]) -> float:
    """Largest difference between two logarithms of a probability after the prompt."""
    ours = logits(run, ids)[-1].log_softmax(-1)
    said = there.likelihoods(ids, len(ours))
    assert len(said) == len(ours)
    return max(abs(value - float(ours[number])) for number, value in said.items())


@RUNS
@pytest.mark.parametrize("kind", RUNNING)
def test_llama_cpp_gives_our_tokens_probabilities_and_texts(kind: str, tmp_path: Path) -> None:
    run, out, result = exported(tmp_path, kind, gguf=True)
    assert result.gguf_sha256 == hashlib.sha256((out / "model.gguf").read_bytes()).hexdigest()
    ours, ids = Reader(run.run).tokenizer, prompt_of(run)
    with served(out / "model.gguf") as there:
        unknown = ours.engine.token_to_id(UNKNOWN)
        for text in TEXTS:
            assert there.ids(text) == [run.manifest.document_id, *once(unknown, ours.encode([text])[0].tolist())]
        assert apart(there, run, ids) < 2e-5
        assert there.greedy(ids, 12) == greedy(run, ids, 12)


def once(unknown: int | None, ids: list[int]) -> list[int]:
    """The ids with one unknown token in place of several: llama.cpp does not repeat it."""
    return [number for at, number in enumerate(ids) if at == 0 or number != unknown or ids[at - 1] != unknown]


def greedy(run: Trained, ids: list[int], tokens: int) -> list[int]:
    """What our model finds likeliest, without the objective's own tokens."""
    for _ in range(tokens):
        ids = [*ids, int(logits(run, ids)[-1, : run.manifest.vocabulary].argmax())]
    return ids[-tokens:]


@RUNS
def test_with_llama_cpps_own_settings_and_where_the_comparison_fails(tmp_path: Path) -> None:
    run, out, _ = exported(tmp_path, "llama", gguf=True)
    ids = prompt_of(run)
    with served(out / "model.gguf", exact=False) as there:
        assert apart(there, run, ids) < 2e-2, "it keeps keys and values in 16 bits"
        sampling = there.post("/completion", prompt=ids, n_predict=1)["generation_settings"]
        assert sampling["temperature"] == pytest.approx(0.8)
        assert (sampling["top_k"], sampling["top_p"], sampling["min_p"]) == (50, 1.0, 0.0), "as `foundray sample`"
    with served(out / "model.gguf", rope_base=10_000.0) as there:
        assert apart(there, run, ids) > 1e-2


@RUNS
def test_the_middle_is_filled_in_by_our_layout_and_objectives_tokens_are_not_generated(tmp_path: Path) -> None:
    run, out = trained(tmp_path, "middle"), tmp_path / "out"
    vocabulary = run.manifest.vocabulary
    run.model.get_submodule("lm_head").weight.data[vocabulary:] *= 6  # so that one of its tokens is the likeliest
    out.mkdir()
    write(run, out, Store.at(out), gguf=True)
    ids = prompt_of(run)
    assert logits(run, ids)[-1].argmax() >= vocabulary
    with served(out / "model.gguf") as there:
        assert there.greedy(ids, 4) == greedy(run, ids, 4)
        said = there.post("/infill", input_prefix="It is", input_suffix=" the best", n_predict=1, temperature=0)
        assert said["prompt"] == "<|document|><|fim_prefix|>It is<|fim_suffix|> the best<|fim_middle|>"
        parsed = there.ids("It is<|fim_middle|>")
        assert parsed[-1] == vocabulary + 2


def from_elsewhere(name: str) -> Engine:
    """Byte-level BPE with another splitting of texts into words, as in a tokenizer file; or all characters of the texts."""
    if name == "characters":
        return make_char(set("".join(TEXTS)) - {"\x00"} | set("<b>|/")).engine
    words, letters = pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.ByteLevel(False, use_regex=False)
    engine = Engine(models.BPE(ignore_merges=name == "llama-bpe"))
    engine.pre_tokenizer = {
        "gpt-2": words,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words]),
        "llama-bpe": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), letters]),
    }[name]
    engine.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False)
    engine.train_from_iterator(TEXTS * 9, trainer)
    engine.add_tokens(["<b>"])
    return engine


@RUNS
@pytest.mark.parametrize("name", [*SPLITS, "characters"])
def test_vocabularies_from_elsewhere(name: str, tmp_path: Path) -> None:
    spec, engine = make_spec(), from_elsewhere(name)
    tokenizer = to_hugging_face(engine.to_str(), 0, engine.get_vocab_size(), (), {}, spec.model.context, left=True)
    stock = causal_lm.build(model_of(spec, engine.get_vocab_size()), spec, tokenizer.pad_token_id)
    stock.generation_config.update(temperature=0.8, top_k=50)
    save(stock, tokenizer, tmp_path, name, {})
    assert Vocabulary.of(engine).splits == (name if name in SPLITS else None)
    with served(tmp_path / "model.gguf") as there:
        for text in [*TEXTS, "a <b>c</b> <|end|>"]:
            assert there.ids(text) == tokenizer(text)["input_ids"], name


def changed(**parts: Any) -> Engine:
    """Our BPE with other parts."""
    engine = train_bpe(TEXTS * 9, 300).engine
    for part, value in parts.items():
        setattr(engine, part, value)
    return engine


def with_model(**options: Any) -> Engine:
    fields = json.loads(train_bpe(TEXTS * 9, 300).to_json())
    fields["model"] |= options
    return Engine.from_str(json.dumps(fields))


def with_eager_token() -> Engine:
    engine = train_bpe(TEXTS * 9, 300).engine
    engine.add_tokens([AddedToken("<b>", lstrip=True)])
    return engine


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: make_char("ab ▁").engine, "its token '▁' is what llama.cpp writes for a space"),
        (lambda: make_char("ab\0").engine, r"its token '\\x00' ends a text"),
        (lambda: Engine(models.WordLevel({"[UNK]": 0, "word": 1}, "[UNK]")), "its model is WordLevel"),
        (lambda: Engine(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")), "its model is WordPiece"),
        (lambda: Engine(models.Unigram([("<unk>", 0.0)], 0)), "its model is Unigram"),
        (lambda: Engine(models.BPE({"a": 0, "b": 1}, [])), "splits texts in a way that has no name"),
        (lambda: changed(normalizer=normalizers.NFC()), r"its normalizer \(NFC\) changes a text first"),
        (lambda: changed(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)), "splits texts in a way"),
        (lambda: changed(pre_tokenizer=pre_tokenizers.ByteLevel(False, use_regex=False)), "splits texts in a way"),
        (lambda: with_model(ignore_merges=True), "splits texts in a way"),
        (lambda: with_model(dropout=0.1), "its model has dropout"),
        (with_eager_token, "its token '<b>' takes the space beside it"),
    ],
)
def test_a_vocabulary_that_llama_cpp_lacks_is_refused(made: Callable[[], Engine], message: str) -> None:
    with pytest.raises(InputError, match=rf"^--gguf writes for llama\.cpp: .*{message}.*suit it$"):
        Vocabulary.of(made())


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - set(RUNNING)))
def test_a_kind_that_llama_cpp_lacks_is_refused(kind: str, tmp_path: Path) -> None:
    run = trained(tmp_path, kind)
    why = "would not rewrite texts" if kind == "genomes" else f"and {run.spec.objective.kind} makes none"
    with pytest.raises(InputError, match=rf"^--gguf writes for llama\.cpp: it .*{why}"):
        check(run.run, run.spec)


def test_a_network_that_no_stock_class_computes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "layer norm", {"model__norm": "ln"})
    run, out = trained(tmp_path, "layer norm"), tmp_path / "out"
    out.mkdir()
    check(run.run, run.spec)
    with pytest.raises(InputError, match=r"^--gguf writes for llama\.cpp: LlamaForCausalLM needs model: {norm: rms}"):
        write(run, out, Store.at(out), gguf=True)
    assert not list(out.iterdir())


def test_every_id_has_a_token_and_a_vocabulary_of_bytes_one_merge() -> None:
    engine = make_bytes().engine
    engine.add_special_tokens(["<|x|>"])
    found = Vocabulary.of(engine)
    assert len(found.tokens) == len(found.types) == 258 and found.types[257] == 3
    assert found.merges == ["ÿ þ"]
    vocabulary = json.loads(train_bpe(TEXTS * 9, 300).to_json())["model"]["vocab"]
    assert Vocabulary.of(with_model(vocab=vocabulary | {"zz": 302})).tokens[300:] == ["[UNUSED300]", "[UNUSED301]", "zz"]
