"""Tokenizer files that would lose characters or cut at random are refused or corrected; no text opens documents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Engine

from foundray import spec as fields
from foundray.data.prepare.limits import Limits
from foundray.data.prepare.manifest import Shard
from foundray.data.prepare.recipe import prepared_folder
from foundray.data.prepare.shard import make_shard
from foundray.data.tokenizers.checks import Anatomy, byte_letters, byte_tokens
from foundray.data.tokenizers.encoding import EngineFailed, calling, encode_one, encode_or_reason
from foundray.data.tokenizers.file import load_file, read_engine, recipe_of_file
from foundray.data.tokenizers.tokenizer import Tokenizer, make_bytes, make_char, train_bpe
from foundray.errors import InputError
from foundray.planning import plan
from foundray.planning.coverage import fertility, load_named
from foundray.spec import Spec
from foundray.testing.specs import small_spec

HTML = ["a <s>struck</s> word and <s>another</s> one"] * 8
WORDS = ["Hello world", "Hello 中文", "مرحبا", "Hello Hello Hello oooo leel H H H world"] * 5
BYTES = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
FALLBACK = {f"<0x{byte:02X}>": byte for byte in range(256)}


def engine(
    model: models.Model, pre_tokenizer: Any = None, normalizer: Any = None, special: tuple[str, ...] = (), ordinary: str = ""
) -> Engine:
    made = Engine(model)
    if pre_tokenizer:
        made.pre_tokenizer = pre_tokenizer
    if normalizer:
        made.normalizer = normalizer
    made.add_special_tokens(list(special))
    if ordinary:
        made.add_tokens([ordinary])
    return made


def byte_level(regex: bool = True) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)


def without(vocabulary: dict[str, int], *tokens: str) -> dict[str, int]:
    return {token: number for number, token in enumerate(token for token in vocabulary if token not in tokens)}


def words(*extra: str, unknown: str = "<unk>") -> models.WordLevel:
    return models.WordLevel({word: at for at, word in enumerate(["Hello", "world", *extra])}, unk_token=unknown)


def saved(tmp_path: Path, made: Engine, **changes: Any) -> Path:
    """A tokenizer.json; `changes` replace fields of its model."""
    content = json.loads(made.to_str())
    content["model"].update(changes)
    (tmp_path / "their.json").write_text(json.dumps(content))
    return tmp_path / "their.json"


def load(file: Path, **given: str) -> Tokenizer:
    return load_file(fields.TokenizerConfig(kind="file", path=str(file), **given))  # type: ignore[arg-type]


def opener(tokenizer: Tokenizer) -> str:
    return str(tokenizer.engine.id_to_token(tokenizer.document_id))


# Characters without a token

LOSSY: dict[str, tuple[Callable[[], Engine], str]] = {
    "letters alone": (
        lambda: engine(models.BPE({"H": 0, "e": 1, "l": 2, "o": 3, "<s>": 4}, [])),
        "has no unknown token, so that characters outside its vocabulary would vanish: put one into model.vocab and name it in "
        "model.unk_token, or make it byte-level",
    ),
    "nothing": (lambda: engine(models.BPE({}, [])), "has no unknown token"),
    "an absent unknown token": (lambda: engine(models.BPE({"a": 0}, [], unk_token="<unk>")), "names the unknown token '<unk>'"),
    "an unknown token that is only added": (
        lambda: engine(models.BPE({"a": 0}, [], unk_token="<unk>"), special=("<unk>",)),
        "names the unknown token '<unk>', which its vocabulary lacks, so that .* end in an error",
    ),
    "byte-level without one letter": (
        lambda: engine(models.BPE(without(BYTES, "Ġ"), []), byte_level()),
        r"has no unknown token \(it lacks 'Ġ' of the letters that stand for bytes \(ByteLevel\)\)",
    ),
    "byte-level without many letters": (
        lambda: engine(models.BPE({letter: at for at, letter in enumerate("abc")}, []), byte_level()),
        r"lacks 240 \('!', '\"', '#', …\) of the letters",
    ),
    "byte-level as a normalizer, incomplete": (
        lambda: engine(models.BPE(without(BYTES, "a"), []), None, normalizers.ByteLevel()),
        "it lacks 'a' of the letters",
    ),
    "byte-level with ends of words": (
        lambda: engine(models.BPE(BYTES, [], end_of_word_suffix="</w>"), byte_level()),
        r"lacks 243 \('!</w>'",
    ),
    "all letters, and not byte-level": (lambda: engine(models.BPE(BYTES, []), pre_tokenizers.Whitespace()), "no unknown token"),
    "byte fallback without one byte": (
        lambda: engine(models.BPE(without({**FALLBACK, "a": 256}, "<0x0A>"), [], byte_fallback=True)),
        r"it lacks '<0x0A>' of the tokens for bytes \(model.byte_fallback\)",
    ),
    "all tokens for bytes, and no fallback": (lambda: engine(models.BPE(FALLBACK, [])), "no unknown token"),
    "words": (lambda: engine(words(), pre_tokenizers.Whitespace()), "names the unknown token '<unk>'.* end in an error"),
    "words, the unknown token only added": (lambda: engine(words(), special=("<unk>",)), "which its vocabulary lacks"),
    "no words": (lambda: engine(models.WordLevel({}, unk_token="<unk>")), "names the unknown token '<unk>'"),
    "pieces of words": (
        lambda: engine(models.WordPiece({"Hello": 0, "[CLS]": 1}, unk_token="[UNK]"), pre_tokenizers.BertPreTokenizer()),
        r"names the unknown token '\[UNK\]'.* in model.unk_token$",
    ),
    "unigram": (lambda: engine(models.Unigram([("a", -1.0)], None)), "has no unknown token, .* error: .* model.unk_id"),
    "unigram with all bytes": (
        lambda: engine(models.Unigram([("a", -1.0), *((token, -9.0) for token in FALLBACK)], None, True)),
        "has no unknown token, so that",
    ),
}


@pytest.mark.parametrize("name", LOSSY)
def test_one_that_would_lose_characters_is_refused(name: str, tmp_path: Path) -> None:
    make, said = LOSSY[name]
    file = saved(tmp_path, make())
    with pytest.raises(InputError, match=rf"^data\.tokenizer\.path: {file} .*{said}"):
        load(file)
    with pytest.raises(InputError, match=rf"^--tokenizer: {file} "):
        load_named([str(file)])


WHOLE: dict[str, Callable[[], Engine]] = {
    "byte-level": lambda: engine(models.BPE(BYTES, []), byte_level()),
    "byte-level with an absent unknown token": lambda: engine(models.BPE(BYTES, [], unk_token="<unk>"), byte_level()),
    "byte-level without bytes that no text has": lambda: engine(
        models.BPE({letter: at for at, letter in enumerate(sorted(byte_letters()))}, []), byte_level()
    ),
    "byte-level behind another": lambda: engine(
        models.BPE(BYTES, []), pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level(False)])
    ),
    "byte-level as a normalizer": lambda: engine(
        models.BPE(BYTES, []), None, normalizers.Sequence([normalizers.NFC(), normalizers.ByteLevel()])
    ),
    "byte-level with ends of words": lambda: engine(
        models.BPE(
            {token: at for at, token in enumerate([*BYTES, *(f"{x}</w>" for x in BYTES)])}, [], end_of_word_suffix="</w>"
        ),
        byte_level(),
    ),
    "byte fallback": lambda: engine(models.BPE({**FALLBACK, "a": 256}, [], byte_fallback=True)),
    "unigram with all bytes": lambda: engine(
        models.Unigram([("<unk>", 0.0), ("a", -1.0), *((token, -9.0) for token in FALLBACK)], 0, True)
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_one_that_writes_all_text_as_bytes_loses_nothing(name: str, tmp_path: Path) -> None:
    loaded = load(saved(tmp_path, WHOLE[name]()))
    text = "aé中\n🙂\x00"
    parts = Anatomy(loaded.engine)
    encoding = loaded.engine.encode(text, add_special_tokens=False)
    assert {at for start, stop in encoding.offsets for at in range(start, stop)} == set(range(len(text)))
    assert parts.unknown_id not in encoding.ids
    assert fertility("", loaded, [text]).unknown == 0
    assert parts.complete and (len(byte_letters()), len(byte_tokens())) == (243, 243)


UNKNOWN: dict[str, Callable[[], Engine]] = {
    "letters": lambda: engine(models.BPE({"<unk>": 0, "H": 1, "e": 2, "l": 3, "o": 4}, [], unk_token="<unk>")),
    "byte-level, incomplete": lambda: engine(
        models.BPE({**{letter: at for at, letter in enumerate("Helo")}, "<unk>": 4}, [], unk_token="<unk>"), byte_level()
    ),
    "words": lambda: engine(words("<unk>"), pre_tokenizers.Whitespace()),
    "pieces of words": lambda: engine(
        models.WordPiece({"[UNK]": 0, "Hel": 1, "##lo": 2}, unk_token="[UNK]"), pre_tokenizers.BertPreTokenizer()
    ),
    "unigram": lambda: engine(models.Unigram([("<unk>", 0.0), ("Hello", -1.0)], 0)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_token_stands_for_what_has_none(name: str, tmp_path: Path) -> None:
    loaded = load(saved(tmp_path, UNKNOWN[name]()))
    unknown = Anatomy(loaded.engine).unknown_id
    for text, ids in zip(["Hello", "Hello 中文", "مرحبا"], loaded.encode(["Hello", "Hello 中文", "مرحبا"]), strict=True):
        assert (unknown in ids) == (text != "Hello"), text


# Ids


@pytest.mark.parametrize(
    ("vocabulary", "said"),
    [
        (
            {"<unk>": 0, "a": 2**31},
            "has 2 tokens with ids up to 2,147,483,648, and each id takes a row of the embedding: number",
        ),
        ({"<unk>": 0, "a": 2**22}, "to 4,194,303 at most"),
        ({"<unk>": 0, "a": 70_000}, "has 2 tokens with ids up to 70,000"),
        ({"<unk>": 0, "a": 1, "b": 1}, "has one id, 1, for the tokens 'a' and 'b'"),
        (
            {"<unk>": 0, "a": 2, "b": 3},
            "with one added it has one id for '<|document|>' and 'b': number its tokens without gaps",
        ),
    ],
)
def test_ids_that_no_model_could_hold_are_refused(vocabulary: dict[str, int], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^data.tokenizer.path: .*{said.replace('|', '[|]')}"):
        load(saved(tmp_path, engine(words("<unk>")), vocab=vocabulary))


def test_a_few_gaps_do_no_harm(tmp_path: Path) -> None:
    loaded = load(saved(tmp_path, engine(models.WordLevel({"<unk>": 0, "a": 2, "b": 7}, unk_token="<unk>"))))
    assert (opener(loaded), loaded.document_id, loaded.vocabulary) == ("<|document|>", 3, 8)


# What opens documents


def html_tokenizer() -> Engine:
    """A tokenizer whose `<s>` is a merge, and whose special token is another one."""
    made = engine(models.BPE(), byte_level(False))
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(HTML, trainer)
    return made


def test_an_ordinary_token_does_not_open_documents(tmp_path: Path) -> None:
    loaded = load(saved(tmp_path, html_tokenizer()))
    assert loaded.engine.encode("<s>", add_special_tokens=False).tokens == ["<s>"]
    assert (opener(loaded), loaded.document_id) == ("<|endoftext|>", 0)
    for text, ids in zip(HTML, loaded.encode(HTML), strict=True):
        assert loaded.document_id not in ids
        assert loaded.decode(ids) == text


ORDINARY: dict[str, tuple[Callable[[], Engine], str]] = {
    "[CLS] is a word": (lambda: engine(words("[CLS]", "<unk>"), pre_tokenizers.WhitespaceSplit()), "<|document|>"),
    "[CLS] is a piece": (
        lambda: engine(models.WordPiece({"[UNK]": 0, "[CLS]": 1}, unk_token="[UNK]"), pre_tokenizers.WhitespaceSplit()),
        "<|document|>",
    ),
    "</s> is a piece, <eos> is special": (
        lambda: engine(models.Unigram([("<unk>", 0.0), ("</s>", 0.0), ("<eos>", 0.0)], 0), special=("<eos>",)),
        "<eos>",
    ),
    "<s> is a letter's neighbour": (
        lambda: engine(models.BPE({"<unk>": 0, "<s>": 1}, [], unk_token="<unk>")),
        "<|document|>",
    ),
    "<bos> is added, and not special": (lambda: engine(words("<unk>"), ordinary="<bos>", special=("<eos>",)), "<eos>"),
    "[CLS] is the unknown token": (
        lambda: engine(words("[CLS]", unknown="[CLS]"), special=("[CLS]", "</s>")),
        "</s>",
    ),
    "<s> is the unknown token, and nothing is unknown": (
        lambda: engine(models.BPE({**BYTES, "<s>": 256}, [], unk_token="<s>"), byte_level(), special=("<s>",)),
        "<s>",
    ),
    "<s> and <|endoftext|> are special": (lambda: engine(words("<unk>"), special=("<|endoftext|>", "<s>")), "<s>"),
    "<s> has the id of a word": (
        lambda: engine(models.WordLevel({"<unk>": 0, "a": 2, "b": 3}, unk_token="<unk>"), special=("<s>", "</s>")),
        "</s>",
    ),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_special_tokens_open_documents(name: str, tmp_path: Path) -> None:
    make, expected = ORDINARY[name]
    loaded = load(saved(tmp_path, make()))
    assert opener(loaded) == expected
    assert loaded.engine.get_added_tokens_decoder()[loaded.document_id].special


@pytest.mark.parametrize(
    "make", [make_bytes, lambda: make_char("".join(HTML)), lambda: train_bpe(HTML, 300)], ids=["bytes", "char", "bpe"]
)
def test_runs_files_keep_their_opener(make: Callable[[], Tokenizer], tmp_path: Path) -> None:
    """Even if it is no special token in them: no text becomes it."""
    made = make()
    for name in ({}, {"document_token": "<|document|>"}):
        loaded = load(saved(tmp_path, made.engine), **name)
        assert (loaded.document_id, loaded.vocabulary, loaded.to_json()) == (0, made.vocabulary, made.to_json())
        assert opener(loaded) == "<|document|>" and 0 not in loaded.encode(["<|document|>"])[0]


def test_a_word_like_our_opener_is_none(tmp_path: Path) -> None:
    made = engine(words("<|document|>", "<unk>"), pre_tokenizers.WhitespaceSplit())
    with pytest.raises(InputError, match=r"has no special token that .* '<\|document\|>' as an ordinary token"):
        load(saved(tmp_path, made))


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("<s>", r"has '<s>' as an ordinary token, which text can spell; it has the special tokens '<\|endoftext\|>'"),
        ("<pad>", "has no token '<pad>'"),
        ("a", "has 'a' as an ordinary token"),
    ],
)
def test_an_opener_that_text_can_spell_is_refused(token: str, said: str, tmp_path: Path) -> None:
    file = saved(tmp_path, html_tokenizer())
    with pytest.raises(InputError, match=f"^data.tokenizer.document_token: {file} {said}"):
        load(file, document_token=token)
    assert opener(load(file, document_token="<|endoftext|>")) == "<|endoftext|>"


def test_an_opener_that_stands_for_the_unknown_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path, engine(words("<unk>"), special=("<unk>",)))
    with pytest.raises(InputError, match="also has '<unk>' for unknown text; without it, one is added"):
        load(file, document_token="<unk>")


def test_a_text_that_becomes_the_opener_nevertheless_is_quarantined(tmp_path: Path) -> None:
    """A Unigram turns text into the special tokens that it spells: the document would seem to be two."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), *((letter, -2.0) for letter in "abcs<>")]
    loaded = load(saved(tmp_path, engine(models.Unigram(pieces, 0), special=("<s>",))))
    first, second, third = encode_or_reason(loaded, ["ab", "a<s>b", "a<b>"])
    assert opener(loaded) == "<s>"
    assert isinstance(second, str) and second.startswith(
        "it contains '<s>', which the tokenizer turns into the token that opens"
    )
    assert not isinstance(first, str) and not isinstance(third, str) and (len(first), len(third)) == (2, 4)


def test_data_prepared_with_another_opener_is_not_found(tmp_path: Path) -> None:
    """Only then: the name of data that was opened as it is now does not change."""
    file = saved(tmp_path, html_tokenizer())
    found = recipe_of_file(fields.TokenizerConfig(kind="file", path=str(file)))
    assert sorted(found) == ["opener", "sha256"] and found["opener"] == "<|endoftext|>"
    same = fields.TokenizerConfig(kind="file", path=str(file), document_token="<|endoftext|>")
    assert recipe_of_file(same) == {"sha256": found["sha256"]}
    assert sorted(recipe_of_file(fields.TokenizerConfig(kind="file", path=str(saved(tmp_path, make_bytes().engine))))) == [
        "sha256"
    ]


# Failures


def random_merges() -> Engine:
    return engine(models.BPE({"a": 0, "b": 1, "ab": 2, "abab": 3, "<unk>": 4}, [("a", "b"), ("ab", "ab")], unk_token="<unk>"))


def test_dropout_is_off(tmp_path: Path) -> None:
    file = saved(tmp_path, random_merges(), dropout=0.5)
    drawn = Engine.from_file(str(file))
    assert len({tuple(drawn.encode("ab" * 8).ids) for _ in range(50)}) > 1
    for engine_read in (load(file).engine, read_engine(str(file), "--tokenizer")):
        assert {tuple(engine_read.encode("ab" * 8).ids) for _ in range(50)} == {(3,) * 4}
    assert json.loads(load(file).to_json())["model"]["dropout"] is None


def backtracking(normalizing: bool = False) -> Engine:
    pattern = Regex("(a+)+$")
    made = models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>")
    if normalizing:
        return engine(made, None, normalizers.Replace(pattern, "x"))
    return engine(made, pre_tokenizers.Split(pattern, "isolated"))


@pytest.mark.parametrize("normalizing", [False, True])
def test_one_text_that_a_tokenizer_fails_on_costs_no_other(normalizing: bool, tmp_path: Path) -> None:
    loaded = load(saved(tmp_path, backtracking(normalizing)))
    first, second, third = encode_or_reason(loaded, ["a", f"{'a' * 28}b", "b"])
    assert second == "the tokenizer fails on it: Onig: Regex search error: retry-limit-in-match over"
    assert not isinstance(first, str) and not isinstance(third, str)
    assert (first.tolist(), third.tolist()) == ([0] if normalizing else [1], [0])


def prepared(tmp_path: Path, lines: list[str], file: Path) -> tuple[Shard, list[list[int]], list[dict[str, Any]], Spec]:
    """The shard of a file whose lines are documents, its samples, and its quarantine."""
    (tmp_path / "lines.txt").write_text("\n".join(lines) + "\n")
    given = small_spec(tmp_path / "lines.txt", tmp_path / "runs", data__tokenizer={"kind": "file", "path": str(file)})
    given["data"]["sources"][0]["documents"] = "line"
    checked = Spec.model_validate(given)
    folder, _, (unit,) = prepared_folder(checked)
    shard = make_shard(folder.url, unit, checked.data.sources[0], load(file), 33, Limits(10, 1.0))
    samples = pq.read_table((folder / shard.file).path).column("tokens").to_pylist()
    lost = [json.loads(line) for line in (folder / f"quarantine/{unit.name}.jsonl").read_text().splitlines()]
    return shard, samples, lost, checked


def test_a_document_that_a_tokenizer_fails_on_is_quarantined(tmp_path: Path) -> None:
    shard, samples, lost, checked = prepared(tmp_path, ["aaaa", f"{'a' * 28}b", "b"], saved(tmp_path, backtracking()))
    # Opener 2; "aaaa" is one word that the vocabulary lacks, and so is "b".
    assert (shard.documents, shard.quarantined, shard.tokens, samples) == (2, 1, 3, [[2, 0, 2, 0]])
    assert [(line["position"], line["lost"], line["unit"]) for line in lost] == [("line 2", 1, "document")]
    assert lost[0]["reason"] == "the tokenizer fails on it: Onig: Regex search error: retry-limit-in-match over"
    counts = plan(checked, gpus=["H100"]).survey.counts
    assert (counts.documents, counts.bad_rows, counts.tokens) == (2, 1, 4)


def test_documents_begin_where_they_begin(tmp_path: Path) -> None:
    """Eight lines with two `<s>` each are eight documents."""
    shard, samples, lost, _ = prepared(tmp_path, HTML, saved(tmp_path, html_tokenizer()))
    stream = [*samples[0], *(token for sample in samples[1:] for token in sample[1:])]
    assert (shard.documents, shard.quarantined, lost, stream.count(0)) == (8, 0, [], 8)
    assert load(tmp_path / "their.json").decode(stream) == "".join(HTML)


def test_a_document_that_becomes_several_is_quarantined(tmp_path: Path) -> None:
    pieces = [("<unk>", 0.0), ("<s>", 0.0), *((letter, -2.0) for letter in "abcs<>")]
    file = saved(tmp_path, engine(models.Unigram(pieces, 0), special=("<s>",)))
    shard, samples, lost, _ = prepared(tmp_path, ["ab", "a<s>b", "ba"], file)
    assert (shard.documents, shard.quarantined, samples) == (2, 1, [[1, 2, 3, 1, 3, 2]])
    assert (lost[0]["position"], lost[0]["unit"]) == ("line 2", "document")


def test_errors_become_reasons_but_interruptions_do_not() -> None:
    lossy = Tokenizer(engine(words(), pre_tokenizers.Whitespace()), -1)
    first, second = encode_or_reason(lossy, ["Hello", "nobody"])
    assert not isinstance(first, str) and first.tolist() == [0]
    assert second == "the tokenizer fails on it: WordLevel error: Missing [UNK] token from the vocabulary"
    assert encode_one(lossy, "Hello").tolist() == first.tolist()
    with pytest.raises(
        InputError, match=r"^the tokenizer fails on 'nobody': WordLevel error: Missing .*; give it another text$"
    ):
        encode_one(lossy, "nobody")

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calling(interrupted)
    with pytest.raises(EngineFailed, match=r"^first line$"):
        calling(lambda: (_ for _ in ()).throw(ValueError("first line\nsecond line")).__next__())


# What is no tokenizer.json


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.json", b"", "it is empty; transformers' AutoTokenizer"),
        (
            "tokenizer.model",
            b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02",
            "it is binary, a SentencePiece model; transformers'",
        ),
        ("weights.bin", b"\x80\x04\x95", "it is binary; "),
        ("merges.txt", b"#version: 0.2\na b\n", r"it is not JSON \(expected value at line 1 column 1\); "),
        ("cut.json", b'{"version": "1.0", "model": {', "it is not JSON"),
        ("deep.json", b"[" * 100_000, "it is not JSON"),
        ("list.json", b"[1]", "its JSON is not an object with the fields `version` and `model`"),
        ("vocab.json", b'{"a": 0, "b": 1}', "it is only a vocabulary, without the rules that split text"),
        ("tokenizer_config.json", b'{"tokenizer_class": "X"}', "it has no field `model`, but tokenizer_class; "),
        ("object.json", b"{}", "it has no field `model`; "),
        (
            "pointer.json",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
            "it is a Git LFS pointer; `git",
        ),
        ("new.json", b'{"version": "2.0", "model": {}}', r"cannot read it \(Unknown tokenizer version '2.0' .*: save it with"),
        ("kind.json", b'{"version": "1.0", "model": {"type": "New"}}', r"the tokenizers library [\d.]+ cannot read it \("),
        (
            "panic.json",
            b'{"version": "1.0", "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAA="}, "model": {}}',
            r"cannot read it \(Precompiled: ",
        ),
        (
            "regex.json",
            b'{"version": "1.0", "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated", '
            b'"invert": false}, "model": {}}',
            r"cannot read it \(Oniguruma error: ",
        ),
    ],
)
def test_another_file_is_refused_by_what_it_is(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"^data\.tokenizer\.path: {tmp_path / name} is not a tokenizer\.json: .*{said}"):
        load(tmp_path / name)


def test_the_right_file_beside_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(make_bytes().to_json())
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(InputError, match=f"split text; {tmp_path / 'tokenizer.json'} lies beside it$"):
        load(tmp_path / "vocab.json")


def test_folders_urls_and_byte_order_marks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder without a tokenizer\.json; transformers'"):
        load(tmp_path)
    (tmp_path / "tokenizer.json").write_text(make_bytes().to_json(), encoding="utf-8-sig")
    for place in (tmp_path, tmp_path / "tokenizer.json"):
        assert load(place).to_json() == make_bytes().to_json()
        assert load_file(fields.TokenizerConfig(kind="file", path=place.as_uri())).to_json() == make_bytes().to_json()
    for missing in (tmp_path / "none", (tmp_path / "none").as_uri(), "a\0b", "/dev/null"):
        with pytest.raises(InputError, match=r"^--tokenizer: .*(cannot be read|it is not a file)"):
            read_engine(str(missing), "--tokenizer")


# What a plan says


@pytest.mark.parametrize(
    ("made", "text", "share"),
    [
        (
            UNKNOWN["letters"],
            "Hello Héllo",
            2 / 11,
        ),  # é, and the space, whose token is the unknown one
        (UNKNOWN["words"], "Hello world never", 5 / 15),
        (UNKNOWN["pieces of words"], "Hello Helix", 5 / 10),
        (UNKNOWN["byte-level, incomplete"], "Hello é", 2 / 7),
        (UNKNOWN["unigram"], "Hello中", 1 / 6),
        (lambda: engine(models.BPE({"<unk>": 0, "a": 1}, [], unk_token="<unk>", fuse_unk=True)), "aéé中a", 3 / 5),
        (lambda: engine(words("<unk>"), byte_level(), normalizers.Replace("x", "")), "HelloxHello", 1.0),
        (WHOLE["byte fallback"], "aé中", 0.0),
        (backtracking, f"{'a' * 28}b", 1.0),
    ],
)
def test_the_part_without_a_token(made: Callable[[], Engine], text: str, share: float, tmp_path: Path) -> None:
    named = load_named([str(saved(tmp_path, made()))])
    assert fertility("", named["their.json"], [text]).unknown == pytest.approx(share)


def test_a_plan_says_what_has_no_token(tmp_path: Path) -> None:
    """For the spec's tokenizer and for those named, over all text: the held-out tenth has no such letter."""
    source = tmp_path / "text.txt"
    source.write_text("é" * 128 + "Hello " * 1974 + "Hello")
    bert = engine(
        models.WordPiece({"[UNK]": 0, "Hel": 1, "##lo": 2}, unk_token="[UNK]"),
        pre_tokenizers.BertPreTokenizer(),
        normalizers.Sequence([normalizers.NFC()]),
    )
    (tmp_path / "bert").mkdir()
    theirs = saved(tmp_path / "bert", bert)
    letters = saved(tmp_path, UNKNOWN["letters"]())
    given = small_spec(source, tmp_path / "runs", data__tokenizer={"kind": "file", "path": str(letters)})
    found = plan(Spec.model_validate(given), tokenizers=[str(theirs)], gpus=["H100"])
    assert found.coverage
    # 128 of é and 1,974 spaces are unknown to the letters; é and the Hello at its end, one word, to the other.
    solid = 128 + 5 * 1975
    assert found.coverage.spec.unknown == pytest.approx((128 + 1974) / (solid + 1974))
    assert found.coverage.named[0].named.unknown == pytest.approx(133 / solid)
    said = " ".join(found.table().split())
    assert f"of this spec (file): {2102 / (solid + 1974):.2%} of the characters have no token" in said
    assert "their.json: 1.33% of the characters have no token" in said
    assert "not kept their.json: its normalizer (NFC) changes the text; its pre-tokenizer (BertPreTokenizer) drops" in said
    assert "another tokenizer: the spec's has no token for 17.6% of the characters" in said
    facts = json.loads(json.dumps(found.to_dict()))["coverage"]
    assert facts["spec"]["unknown"] == found.coverage.spec.unknown
    assert facts["named"][0]["remarks"][1] == "its pre-tokenizer (BertPreTokenizer) drops white space"


@pytest.mark.parametrize("tokenizer", [{"kind": "bytes"}, {"kind": "char"}, {"kind": "bpe", "vocab_size": 300}])
def test_our_own_tokenizers_have_tokens_for_all(tokenizer: dict[str, Any], tmp_path: Path) -> None:
    source = tmp_path / "text.txt"
    source.write_text("".join(WORDS) * 20)
    found = plan(Spec.model_validate(small_spec(source, tmp_path / "runs", data__tokenizer=tokenizer)), gpus=["H100"])
    assert found.coverage and found.coverage.spec.unknown == 0
    assert "have no token" not in found.table()


REMARKS: list[tuple[Any, Any, list[str]]] = [
    (None, None, []),
    (normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None, []),
    (normalizers.Replace("a", "b"), byte_level(), ["its normalizer (Replace) changes the text"]),
    (
        normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]),
        None,
        ["its normalizer (NFD, StripAccents, Lowercase) changes the text"],
    ),
    (None, pre_tokenizers.Punctuation("isolated"), []),
    (None, pre_tokenizers.Punctuation("removed"), ["its pre-tokenizer (Punctuation) drops punctuation"]),
    (None, pre_tokenizers.CharDelimiterSplit("_"), ["its pre-tokenizer (CharDelimiterSplit) drops each '_'"]),
    (None, pre_tokenizers.Split(Regex(r"\d"), "removed"), [r"its pre-tokenizer (Split) drops what '\\d' matches"]),
    (
        None,
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("ab", "removed", invert=True)]),
        [
            "its pre-tokenizer (WhitespaceSplit) drops white space",
            "its pre-tokenizer (Split) drops what 'ab' does not match",
        ],
    ),
]


@pytest.mark.parametrize(("normalizer", "pre_tokenizer", "said"), REMARKS)
def test_what_is_not_kept_on_purpose(normalizer: Any, pre_tokenizer: Any, said: list[str], tmp_path: Path) -> None:
    made = engine(words("<unk>"), pre_tokenizer, normalizer)
    assert Anatomy(load(saved(tmp_path, made)).engine).remarks() == said


def test_added_tokens_keep_their_ways(tmp_path: Path) -> None:
    """An ordinary added token absorbs its spaces and is found in text; a special one is not."""
    made = engine(models.BPE(BYTES, []), byte_level(), special=("<s>",))
    made.add_tokens([AddedToken("<br>", lstrip=True, rstrip=True, normalized=False)])
    loaded = load(saved(tmp_path, made))
    ids = loaded.encode(["a <br> b<s>"])[0].tolist()
    assert [loaded.engine.id_to_token(number) for number in ids] == ["a", "<br>", "b", "<", "s", ">"]


def test_prepared_folders_follow_the_opener(tmp_path: Path) -> None:
    source = tmp_path / "text.txt"
    source.write_text("\n".join(HTML))
    file = saved(tmp_path, html_tokenizer())
    given = small_spec(source, tmp_path / "runs", data__tokenizer={"kind": "file", "path": str(file)})
    _, recipe, _ = prepared_folder(Spec.model_validate(given))
    assert recipe["tokenizer"]["opener"] == "<|endoftext|>"
