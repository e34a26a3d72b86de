"""Exports: the same outputs from stock classes, the same ids from the tokenizer, and a correct card."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.repository import REPOSITORY
from tests.unit.models import CLASSES, SHAPE, batch_of, random_model, tokens
from tokenizers import Tokenizer as Engine
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from foundray.contract import UnitShape, load_objective
from foundray.data.formats import fasta, rewrites, rewritten
from foundray.data.tokenizers.file import load_file
from foundray.data.tokenizers.tokenizer import Tokenizer, make_bytes, make_char, train_bpe
from foundray.errors import InputError
from foundray.exports import causal_lm, masked_lm
from foundray.exports.destination import all_or_nothing
from foundray.exports.fold import folded
from foundray.exports.forms import WORDS, NoStockClass, form_of
from foundray.exports.padding import padded
from foundray.exports.tokens import save, to_hugging_face
from foundray.model.model import Batch, Model
from foundray.spec import ModelConfig, Spec, TokenizerConfig
from foundray.storage import Store
from foundray.testing.specs import small_spec

TEXTS = ["Hello  world,\n\tdef f(x): return x .", "“é” naïve 日本 \x00", " a <|document|> b <|fim_middle|>", ""]


def spec_of(kind: str, **shape: Any) -> Spec:
    """A spec of the tests' small model, with other fields of its shape."""
    model = SHAPE.model_dump(exclude={"predictor"}) | shape
    return Spec.model_validate(small_spec(Path("x"), Path("y"), objective={"kind": kind}, model=model))


def ours(kind: str, shape: ModelConfig) -> tuple[Model, Batch, torch.Tensor]:
    """A model with weights far from zero, a batch, and the model's outputs at all units, [N, classes]."""
    objective = load_objective(kind, {})
    model = random_model(objective, shape).eval()
    batch = batch_of(objective, tokens(3, objective.reads(shape.context) + 1))
    with torch.no_grad():
        return model, batch, model(batch)["lm_head"][batch.valid]


def worst(answers: torch.Tensor, others: torch.Tensor) -> float:
    """Largest difference, relative to the largest output."""
    return float((answers - others).abs().max() / answers.abs().max())


COMPLETE_P = {"base_width": 32, "base_depth": 1}


@pytest.mark.parametrize("kind", ["next_token", "fill_in_middle", "span_corruption"])
@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({}, "LlamaForCausalLM"),
        ({"bias": True, "rope_theta": 500.0}, "LlamaForCausalLM"),
        (COMPLETE_P, "GraniteForCausalLM"),
        ({"base_depth": 1, "bias": True}, "GraniteForCausalLM"),
    ],
)
def test_decoders(kind: str, flags: dict[str, Any], name: str) -> None:
    spec = spec_of(kind, **flags)
    model, batch, answers = ours(kind, spec.model)
    stock = causal_lm.build(model, spec)
    assert type(stock).__name__ == name
    with torch.no_grad():
        assert worst(answers, stock(batch.x).logits[batch.valid]) < 1e-5
        wrong = causal_lm.build(model, spec_of(kind, **flags | {"rope_theta": 5_000.0}))
        assert worst(answers, wrong(batch.x).logits[batch.valid]) > 1e-3  # the comparison can fail
    assert all(torch.equal(stock.state_dict()[n], w) for n, w in model.state_dict().items()), "the weights are unchanged"


@pytest.mark.parametrize("flags", [{}, {"bias": True}, COMPLETE_P, {"base_depth": 1, "bias": True, "rope_theta": 500.0}])
def test_encoders(flags: dict[str, Any]) -> None:
    spec = spec_of("masked_token", **flags)
    model, batch, answers = ours("masked_token", spec.model)
    stock = masked_lm.build(model, spec)
    assert type(stock).__name__ == "EuroBertForMaskedLM"
    mask = stock.config.mask_token_id
    assert mask == CLASSES
    shown = torch.where(batch.masked, mask, batch.x)
    with torch.no_grad():
        logits = stock(shown).logits[batch.valid]
        assert worst(answers, logits[..., :mask]) < 1e-5
        assert (logits[..., mask] == 0).all()
        assert worst(answers, stock(batch.x).logits[batch.valid][..., :mask]) > 1e-3  # the comparison can fail


def test_folded_weights_are_the_same_function() -> None:
    """In a model of the same shape without a base, whose multipliers are 1; the original keeps its weights."""
    spec = spec_of("next_token", **COMPLETE_P, bias=True)
    model, batch, answers = ours("next_token", spec.model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = Model(spec_of("next_token", bias=True).model, load_objective("next_token", {}), UnitShape(classes=CLASSES)).eval()
    with torch.no_grad():
        plain.load_state_dict(folded(model))
        assert worst(answers, plain(batch)["lm_head"][batch.valid]) < 1e-5
        plain.load_state_dict(before)
        assert worst(answers, plain(batch)["lm_head"][batch.valid]) > 1e-2  # the comparison can fail
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"norm": "ln"}, "needs model: {norm: rms}, and the run has norm: ln"),
        ({"act": "gelu", "rope_theta": None}, "needs model: {act: swiglu}, and the run has act: gelu"),
        ({"rope_theta": None}, "has rotary positions, and the run has rope_theta: null"),
    ],
)
def test_what_no_stock_class_has(flags: dict[str, Any], message: str) -> None:
    for kind, form in (("next_token", causal_lm), ("masked_token", masked_lm)):
        spec = spec_of(kind, **flags)
        with pytest.raises(NoStockClass, match=re.escape(message)):
            form.build(ours(kind, spec.model)[0], spec)


def test_there_is_a_module_for_every_word() -> None:
    for kind, pipeline in (("next_token", "text-generation"), ("masked_token", "fill-mask")):
        assert form_of(spec_of(kind)).pipeline(spec_of(kind)) == pipeline
    for word in WORDS:
        assert (Path(causal_lm.__file__).parent / f"{word}.py").exists()
    with pytest.raises(NoStockClass, match="learns by joint_embedding"):
        form_of(spec_of("joint_embedding"))


def word_pieces(folder: Path) -> Tokenizer:
    """A third-party tokenizer file: lower case, its own opening and end tokens, and truncation of long texts."""
    engine = Engine(models.WordPiece(unk_token="[UNK]"))
    engine.normalizer, engine.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    engine.train_from_iterator(TEXTS * 9, trainers.WordPieceTrainer(vocab_size=90, special_tokens=["[UNK]", "[CLS]", "[SEP]"]))
    engine.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    engine.enable_truncation(6)
    engine.enable_padding(length=40)
    engine.save(str(folder / "file.json"))
    return load_file(TokenizerConfig(kind="file", path=str(folder / "file.json")))


@pytest.mark.parametrize("kind", ["bytes", "char", "dna", "bpe", "file"])
def test_tokenizers_give_our_ids_and_texts_back(kind: str, tmp_path: Path) -> None:
    made = {
        "bytes": make_bytes,
        "char": lambda: make_char(set("".join(TEXTS))),
        "dna": lambda: make_char("ACGTN"),
        "bpe": lambda: train_bpe(TEXTS * 9, 300),
        "file": lambda: word_pieces(tmp_path),
    }[kind]()
    extra, roles = ("<|fim_prefix|>", "<|fim_middle|>"), {"mask_token": "<|mask|>"}
    vocabulary = made.vocabulary
    (tmp_path / "out").mkdir()
    save(to_hugging_face(made.to_json(), made.document_id, vocabulary, extra, roles, 32, left=True), tmp_path / "out")
    stock = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(stock) == vocabulary + 3
    assert stock.convert_tokens_to_ids([*extra, "<|mask|>"]) == [*range(vocabulary, vocabulary + 3)]
    assert stock.mask_token_id == vocabulary + 2
    assert stock.bos_token_id == stock.eos_token_id == made.document_id
    pads = {"bytes": "<|pad|>", "bpe": "<|pad|>", "char": "<|unknown|>", "dna": "<|unknown|>", "file": "[UNK]"}
    assert stock.pad_token == pads[kind] and stock.pad_token_id != made.document_id
    assert (stock.model_max_length, stock.padding_side) == (32, "left")
    for text in ["ACGT", "NNAC"] if kind == "dna" else TEXTS:
        ids = stock(text, split_special_tokens=True)["input_ids"]
        assert ids == [made.document_id, *made.encode([text])[0].tolist()]
        back = stock.decode(ids, skip_special_tokens=True)
        assert back == made.decode(ids) if kind == "file" else back == text
    if kind == "file":
        assert len(made.encode([TEXTS[0]])[0]) > 6, "a file's own truncation is not kept"
        assert len(made.encode([TEXTS[3]])[0]) == 0, "nor its padding"
    if kind != "dna":
        assert vocabulary + 1 in stock(TEXTS[2])["input_ids"], "a spelled-out token is parsed as such"
    batch = stock(["A", "A C G"], padding=True)
    assert batch["attention_mask"][0][0] == 0
    assert batch["input_ids"][0][0] == stock.pad_token_id
    assert sorted(batch) == ["attention_mask", "input_ids"]


@pytest.mark.parametrize(("made", "takes"), [(make_bytes, False), (lambda: train_bpe(TEXTS * 9, 300), True)])
def test_tokens_for_hidden_text_take_the_space_before_it(made: Callable[[], Tokenizer], takes: bool) -> None:
    """Where words begin with one, as in training; tokens that stand for nothing leave it."""
    ours = made()
    for hides in (False, True):
        stock = to_hugging_face(ours.to_json(), 0, ours.vocabulary, ["<|x|>"], {"mask_token": "<|mask|>"}, 32, False, hides)
        first, space = ours.vocabulary, ours.encode([" "])[0].tolist()
        for token, stripped in ((first, takes and hides), (first + 1, takes)):
            name = stock.convert_ids_to_tokens(token)
            expected = [0, *ours.encode(["a"])[0], *([] if stripped else space), token, *ours.encode([" b"])[0]]
            assert stock(f"a {name} b")["input_ids"] == expected


def test_padding_of_a_file_from_elsewhere() -> None:
    """Its own token pads; without one, the token of a byte that no text contains, unless longer tokens have it, too."""
    engine = train_bpe(TEXTS * 9, 300).engine
    engine.add_special_tokens(["[PAD]"])
    assert padded(engine.to_str(), "<|document|>") == (engine.to_str(), "[PAD]")
    fields = json.loads(train_bpe(TEXTS * 9, 300).to_json())
    taken = len(fields["model"]["vocab"])
    fields["model"]["vocab"] |= {"ÿÿ": taken}
    fields["model"]["merges"].append(["ÿ", "ÿ"])
    text, name = padded(json.dumps(fields), "<|document|>")
    vocabulary = json.loads(text)["model"]["vocab"]
    assert name == "<|pad|>" and vocabulary["<|pad|>"] == fields["model"]["vocab"]["þ"]
    assert {"ÿ", "ÿÿ"} <= vocabulary.keys() and "þ" not in vocabulary


@given(st.text(st.sampled_from("acgtnACGTNuURYSWKMBDHVryswkmbdhv \t\r\n-*x")))
def test_nucleotides_are_rewritten_as_their_reader_does(text: str) -> None:
    """By the regular expressions of `sample`, and by the exported tokenizer."""
    read = text.encode().translate(fasta.LETTERS, fasta.SPACE).decode()
    assert rewritten(text, rewrites("fasta")) == read
    ours = make_char("ACGTN")
    stock = to_hugging_face(ours.to_json(), 0, ours.vocabulary, (), {}, 32, False, rewrites=rewrites("fasta"))
    assert stock(text)["input_ids"] == [0, *ours.encode([read])[0].tolist()]


def test_ids_that_cannot_follow() -> None:
    made = make_char("ab")
    with pytest.raises(InputError, match="cannot get the ids from 9 on"):
        to_hugging_face(made.to_json(), 0, 9, ("<|mask|>",), {}, 8, left=False)


def test_a_folder_is_complete_or_absent(tmp_path: Path) -> None:
    out = Store.at(tmp_path / "deep" / "out")
    with pytest.raises(RuntimeError), all_or_nothing(out) as folder:
        (folder / "config.json").write_text("{}")
        raise RuntimeError("killed")
    assert not list((tmp_path / "deep").iterdir())
    with all_or_nothing(out) as folder:
        (folder / "config.json").write_text("{}")
        assert not out.exists()
    assert [child.name for child in out.children()] == ["config.json"]
    with pytest.raises(InputError, match="holds something already"), all_or_nothing(out):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"), all_or_nothing(Store.at(tmp_path / "file")):
        pass


def test_a_folder_elsewhere_gets_its_config_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """On pyarrow's in-memory filesystem; an interrupted copy leaves no config."""
    names = ["README.md", "config.json", "model.safetensors"]
    out = Store.at("mock:///bucket/out")
    copied: list[str] = []
    replacing = Store.replacing
    monkeypatch.setattr(Store, "replacing", lambda store: copied.append(store.name) or replacing(store))
    with all_or_nothing(out) as folder:
        for name in names:
            (folder / name).write_text(name)
    assert copied == ["README.md", "model.safetensors", "config.json"]
    assert [(out / name).read_text() for name in names] == names
    assert not folder.exists()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '"foundray"',
        "{}",
        '{"spec": 1, "data": {"vocabulary": 9}, "class": null}',
        '{"spec": {}, "class": null}',
        *(
            '{"spec": {}, "data": {"vocabulary": 9}, "class": null, "files_sha256": %s}' % files  # noqa: UP031 - braces
            for files in ("null", "3", "[3]", "{}", '{"../model.safetensors": ""}')
        ),
    ],
)
def test_a_folder_that_is_no_export_is_refused(content: str, tmp_path: Path) -> None:
    import foundray

    with pytest.raises(InputError, match=r"there is no config\.json in it"):
        foundray.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "foundray.json").write_text(content)
    with pytest.raises(InputError, match=r"there is no readable foundray\.json in it"):
        foundray.load(tmp_path)


def test_licences_change_nothing(prose: Path, tmp_path: Path) -> None:
    """Neither the run's identity nor its prepared data depends on them."""
    from foundray.data.prepare.recipe import prepared_folder

    spec = Spec.model_validate(small_spec(prose, tmp_path))
    source = spec.data.sources[0].model_copy(update={"licence": "CC-BY-SA-4.0"})
    other = spec.model_copy(update={"data": spec.data.model_copy(update={"sources": [source]})})
    assert other != spec
    assert other.fingerprint() == spec.fingerprint()
    assert prepared_folder(other)[0] == prepared_folder(spec)[0]
    changed = spec.model_copy(update={"data": spec.data.model_copy(update={"holdout": 0.2})})
    assert changed.fingerprint() != spec.fingerprint()


def test_examples_state_their_licences() -> None:
    for file in (REPOSITORY / "examples").glob("*/*.yaml"):
        if file.name == "data.yaml" or "task" in file.stem:
            continue
        assert all(source.get("licence") for source in yaml.safe_load(file.read_text())["data"]["sources"]), file


def test_sampling_defaults_match_sample() -> None:
    import inspect

    import foundray
    from foundray.exports.writing import SAMPLING

    defaults = {name: p.default for name, p in inspect.signature(foundray.sample).parameters.items()}
    assert {"do_sample": True, "temperature": defaults["temperature"], "top_k": defaults["top_k"]} == SAMPLING
