"""Long documents: for every reader, pieces have the tokens of the whole document, or are cut by the rule."""

from __future__ import annotations

import gzip
import random
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Regex, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Engine

from foundray import spec
from foundray.data.files.files import find_files
from foundray.data.formats.row import LONG, BadRow, Document, DocumentBuilder, decode
from foundray.data.prepare.limits import Limits
from foundray.data.prepare.manifest import Shard
from foundray.data.prepare.pack import Packer
from foundray.data.prepare.quarantine import Line, read_lines
from foundray.data.prepare.reader import Reader, Row
from foundray.data.prepare.recipe import prepared_folder
from foundray.data.prepare.shard import Unit, make_shard
from foundray.data.tokenizers import tokenizer as tokenizers
from foundray.data.tokenizers.long_documents import PIECE, Cutter, Piece, cutting, follows, in_batches, recipe_of_cuts
from foundray.data.tokenizers.tokenizer import Tokenizer
from foundray.data.tokenizers.training_sample import LongDocuments, sample, without_long_words
from foundray.planning.reading import read_text_unit
from foundray.planning.seen import Seen
from foundray.planning.seen_text import SeenText
from foundray.spec import Spec
from foundray.storage import Store
from foundray.testing.specs import small_spec

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FRAGMENTS = [
    "the ", "don't", "I'LL", " we've", "'", "'s", "s", "re", " ", "  ", "    ", "\n", "\n\n", "\r\n", "\t", "\t\t", "123",
    "def f(x):\n    return x", "4567890123", "1 2", "...", "!?", "世界", "你好，", "こんにちは", "😀", "👨‍👩‍👧", "é", "e\u0301",
    "\u0301\u0302", "Ünï", "ABC", "aBcD", "/", "//\n", "_x_", "\u3000", "\u00a0", "\u200b", "=", "==", "$x^2$", "ﬁ", "١٢٣", "Ⅷ",
]  # fmt: skip
"""Prose and code in several scripts, runs of white space, contractions, digits, combining marks, emoji sequences."""


def text_of(rng: random.Random, characters: int) -> str:
    found = ""
    while len(found) < characters:
        found += rng.choice(FRAGMENTS) * rng.choice([1, 1, 1, 1, 2, 3, 12])
    return found[:characters]


@cache
def corpus() -> list[str]:
    rng = random.Random(0)
    return [text_of(rng, 3000) for _ in range(20)]


def byte_level(*before: pre_tokenizers.PreTokenizer, **options: bool) -> Tokenizer:
    engine = Engine(models.BPE())
    letters = pre_tokenizers.ByteLevel(**{"add_prefix_space": False, "use_regex": not before} | options)
    engine.pre_tokenizer = pre_tokenizers.Sequence([*before, letters]) if before else letters
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    engine.train_from_iterator(
        corpus(), trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False)
    )
    return Tokenizer(engine, 0)


def split(expression: str, behavior: str = "isolated") -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(expression), behavior)


EXACT: dict[str, Callable[[], Tokenizer]] = {
    "bytes": tokenizers.make_bytes,
    "char": lambda: tokenizers.make_char(set("".join(FRAGMENTS[:30]))),
    "bpe": lambda: tokenizers.train_bpe(corpus(), 500),
    "gpt2": byte_level,
    "llama3": lambda: byte_level(split(LLAMA3)),
    "o200k": lambda: byte_level(split(O200K)),
    "starcoder": lambda: byte_level(pre_tokenizers.Digits(individual_digits=True), use_regex=True),
}


@pytest.mark.parametrize("kind", EXACT)
def test_pieces_have_the_tokens_of_the_whole(kind: str) -> None:
    tokenizer, rng = EXACT[kind](), random.Random(kind)
    pieces_compared = 0
    for _ in range(120):
        document = Document(text_of(rng, rng.randrange(100, 600)))
        cutter = Cutter(tokenizer, long=20, most=rng.choice([64, 100, 128]), margin=rng.choice([0, 8]))
        assert cutter.exact
        pieces = list(cutter.pieces(document))
        assert "".join(piece.text for piece in pieces) == document.text
        assert [piece.before for piece in pieces] == list(np.cumsum([0, *(piece.size for piece in pieces)])[:-1])
        assert [piece.first for piece in pieces] == [True] + [False] * (len(pieces) - 1)
        assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        if any(piece.crossed for piece in pieces):  # by words longer than a piece
            assert kind not in ("bytes", "char")
            continue
        tokens = np.concatenate(tokenizer.encode([piece.text for piece in pieces]))
        assert np.array_equal(tokens, tokenizer.encode([document.text])[0]), document.text
        pieces_compared += len(pieces)
    assert pieces_compared > 200


@pytest.mark.parametrize("expression", [LLAMA3, O200K, r"\p{N}{1,3}|\S+(?!\S)", r"a(?=[^b\]])\)"])
def test_an_expression_that_looks_at_what_follows_alone(expression: str) -> None:
    assert follows(expression)


@pytest.mark.parametrize(
    "expression",
    [r"(?<=a)b", r"(?<!a)b", r"^a", r"a$", r"\bfoo", r"\Ba", r"a\z", r"\Ga", r"(a)\1", r"a(?=bc)", r"(?=(\d{3})+(?!\d))",
     r"a(?!\b)", r"(?!x+)a", r"a(?!$)"],
)  # fmt: skip
def test_an_expression_that_looks_elsewhere(expression: str) -> None:
    assert not follows(expression)


def with_added(engine: Engine) -> Engine:
    engine.add_tokens(["  "])
    return engine


def with_normalizer(engine: Engine) -> Engine:
    engine.normalizer = normalizers.NFC()
    return engine


def of_words() -> Tokenizer:
    engine = Engine(models.WordLevel({"<s>": 0, "[UNK]": 1, "a": 2}, unk_token="[UNK]"))
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(engine, 0)


INEXACT: dict[str, Callable[[], Tokenizer]] = {
    "words": of_words,
    "a prefix": lambda: byte_level(add_prefix_space=True),
    "an ordinary added token": lambda: Tokenizer(with_added(byte_level().engine), 0),
    "a normalizer": lambda: Tokenizer(with_normalizer(byte_level().engine), 0),
    "a look behind": lambda: byte_level(split(r"(?<=a)b|[^b]+|b")),
    "removed text": lambda: byte_level(split(r"\s+", "removed")),
    "two expressions": lambda: byte_level(split(r"\p{N}{1,3}"), split(LLAMA3)),
}


@pytest.mark.parametrize("kind", INEXACT)
def test_other_tokenizers_cut_by_the_rule(kind: str) -> None:
    cutter = Cutter(INEXACT[kind](), long=8, most=8)
    assert not cutter.exact
    for text, cut in (
        ("ab\ncd ef gh", ["ab\n", "cd ef gh"]),
        ("ab\ncd\nef gh ij", ["ab\ncd\n", "ef gh ij"]),
        ("ab cd  efgh", ["ab cd", "  efgh"]),
        ("ab cde  fgh", ["ab cde", "  fgh"]),
        ("abcdefghij", ["abcdefgh", "ij"]),
        ("  abcdefghij", ["  abcdef", "ghij"]),
        ("世界世界世界世界世界", ["世界世界世界世界", "世界"]),
    ):
        pieces = list(cutter.pieces(Document(text)))
        assert [piece.text for piece in pieces] == cut
        assert [piece.crossed for piece in pieces] == [False] + [True] * (len(cut) - 1)
    assert [piece.text for piece in cutter.pieces(Document("ab cd ef"))] == ["ab cd ef"]  # not long


def test_the_rule_is_in_the_recipe_and_the_exact_ways_are_not(tmp_path: Path) -> None:
    assert not any(recipe_of_cuts(make()) for make in EXACT.values())
    (tmp_path / "a.txt").write_text("a b")
    recipes = []
    for name, make in (("exact", byte_level), ("words", of_words)):
        (tmp_path / f"{name}.json").write_text(make().to_json())
        tokenizer = {"kind": "file", "path": str(tmp_path / f"{name}.json")}
        fields = small_spec(tmp_path / "a.txt", tmp_path / "runs", data__tokenizer=tokenizer)
        recipes.append(prepared_folder(Spec.model_validate(fields))[1]["tokenizer"])
    assert [recipe.get("long_documents") for recipe in recipes] == [None, f"cut at lines, of {PIECE} characters at most"]


def test_a_word_that_is_too_long_is_cut() -> None:
    tokenizer = byte_level()
    cutter = Cutter(tokenizer, long=20, most=64, margin=8)
    pieces = list(cutter.pieces(Document(f"a few short words before {'x' * 150} and a few more short words")))
    texts = ["a few", f" short words before {'x' * 44}", "x" * 64, f"{'x' * 42} and a", " few more short words"]
    assert [piece.text for piece in pieces] == texts
    assert [piece.crossed for piece in pieces] == [False, False, True, True, False]
    assert cutting(cutter, 1) == "words of over 8 characters in 1 document were cut after 64 characters"
    assert "2 documents over 1 MiB were cut after line breaks" in cutting(Cutter(of_words()), 2)
    assert "1 document over 1 MiB was cut after line breaks" in cutting(Cutter(of_words()), 1)
    assert not cutting(cutter, 0)


def test_batches_have_bounded_sizes() -> None:
    sizes = [3, 3, 3, 9, 20, 1, 1, 1, 1]
    pieces: list[Piece | str] = [Piece(Document("x" * size), "x" * size, size) for size in sizes]
    batches = list(in_batches([*pieces[:2], "between", *pieces[2:]], 3, 10))
    assert [[item.size if isinstance(item, Piece) else item for item in batch] for batch in batches] == [
        [3, 3, "between"], [3], [9], [20], [1, 1, 1], [1]
    ]  # fmt: skip


# --- long documents in files ---


def long_text() -> str:
    rng = random.Random(1)
    return "".join(text_of(rng, 500) for _ in range(LONG * 3 // 4 // 500))


def long_words() -> str:
    """A long document of few tokens by `of_words`."""
    rng = random.Random(4)
    return "".join(f"{text_of(rng, 90)}{'a' * 300} a\n" for _ in range(LONG // 360))


def source_of(path: Path, **fields: Any) -> spec.SourceConfig:
    return spec.SourceConfig(path=str(path), **fields)


def unit_of(source: spec.SourceConfig) -> Unit:
    return Unit("0-00000", 0, tuple(find_files(source)))


def shard_of(source: spec.SourceConfig, tokenizer: Tokenizer, folder: Path) -> tuple[Shard, list[list[int]], list[Line]]:
    """The shard's record, its samples, and its quarantine."""
    made = make_shard(str(folder), unit_of(source), source, tokenizer, 64, Limits(10, 1.0))
    samples = pq.read_table(folder / made.file).column("tokens").to_pylist() if made.rows else []
    return made, samples, list(read_lines(Store.at(str(folder)) / "quarantine/0-00000.jsonl"))


def test_shards_of_long_documents_are_those_of_whole_ones(tmp_path: Path) -> None:
    tokenizer, text = EXACT["llama3"](), long_text()
    (tmp_path / "a.txt").write_text(text, newline="")
    (tmp_path / "b.txt").write_text("short", newline="")
    made, samples, lost = shard_of(source_of(tmp_path / "*.txt"), tokenizer, tmp_path / "out")
    packer = Packer(64, tokenizer.document_id)
    for ids in tokenizer.encode([text, "short"]):
        packer.add(ids)
    assert samples == [sample.tolist() for sample in packer.take(end=True)]
    assert (made.documents, made.text_bytes, made.cut, lost) == (2, len(text.encode()) + 5, 0, [])


def test_documents_cut_by_the_rule_are_counted(tmp_path: Path) -> None:
    text = f"{'a' * 300} b c\n" * (LONG // 300)
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text("a b c\n")
    made, samples, _ = shard_of(source_of(tmp_path / "*.txt"), of_words(), tmp_path / "out")
    assert (made.cut, made.documents) == (1, 2)
    assert made.tokens + 1 == 1 + 3 * text.count("\n") + 1 + 3
    assert sum(map(len, samples)) - len(samples) == made.tokens


def failing() -> Tokenizer:
    """A tokenizer that gives up on many a's before a b."""
    engine = Engine(models.WordLevel({"<s>": 0, "[UNK]": 1, "x": 2}, unk_token="[UNK]"))
    engine.pre_tokenizer = split(r"(a+)+$|x")
    return Tokenizer(engine, 0)


def test_a_document_that_the_tokenizer_fails_on_is_lost(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"x\n{'a' * 28}b\nx\n")
    made, samples, lost = shard_of(source_of(tmp_path / "a.txt", documents="line"), failing(), tmp_path / "out")
    assert samples == [[0, 2, 0, 2]]
    assert (made.documents, made.text_bytes) == (2, 2)
    ((position, reason, count, unit),) = [(line.position, line.reason, line.lost, line.unit) for line in lost]
    assert (position, count, unit) == ("line 2", 1, "document")
    assert reason.startswith("the tokenizer fails on it")


def test_a_long_document_that_the_tokenizer_fails_on_is_used_up_to_there(tmp_path: Path) -> None:
    text = "y" * (PIECE - 1) + "\n" + "y" * 1000 + "a" * 28 + "b" + "y" * LONG
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text("x")
    made, samples, lost = shard_of(source_of(tmp_path / "*.txt"), failing(), tmp_path / "out")
    (line,) = lost
    assert (line.position, line.lost, line.unit) == ("byte 0", 1, "document")
    assert line.reason.endswith(f"; its first {PIECE:,} bytes are used, and the other {len(text) - PIECE:,} are missing")
    assert (made.documents, made.text_bytes) == (1, PIECE + 1)
    assert samples[-1][-2:] == [0, 2]


def test_plan_counts_long_documents_as_a_whole(tmp_path: Path) -> None:
    tokenizer, text = of_words(), long_words()
    (tmp_path / "a.txt").write_text(text, newline="")
    (tmp_path / "b.txt").write_text(" ".join(text.split()), newline="")
    source = source_of(tmp_path / "*.txt")
    part = read_text_unit(unit_of(source), source, tokenizer, 0, 10_000)
    texts = [text, " ".join(text.split())]
    assert part.counts.documents == 2
    assert part.counts.bytes == sum(len(text.encode()) for text in texts)
    assert part.counts.characters == sum(map(len, texts))
    assert part.counts.tokens == 2 + sum(len(ids) for ids in tokenizer.encode(texts))
    assert set(part.letters) == set(text)
    assert Seen.from_text(part.documents).repeats().items == 0.5


def test_plan_sets_aside_a_document_that_the_tokenizer_fails_on(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"x\n{'a' * 28}b\nx\n")
    source = source_of(tmp_path / "a.txt", documents="line")
    part = read_text_unit(unit_of(source), source, failing(), 0, 100)
    assert (part.counts.documents, part.counts.tokens, part.counts.bad_rows) == (2, 4, 1)
    assert "line 2: the tokenizer fails on it" in part.bad


def test_repeats_are_seen_in_pieces_as_in_wholes() -> None:
    rng = random.Random(2)
    pieced, whole = SeenText(), (Seen(), Seen())
    for _ in range(50):
        text = text_of(rng, rng.randrange(1, 400)) + rng.choice(["", "\n", " ", "x" * 40, "\n" + "y" * 50])
        cutter = Cutter(tokenizers.make_bytes(), long=10, most=rng.choice([3, 20, 50]))
        for piece in cutter.pieces(Document(text)):
            pieced.add(piece)
        whole[0].add(" ".join(text.split()).encode(), len(text.encode()))
        for line in text.encode().split(b"\n"):
            if len(line) >= 32:
                whole[1].add(line.strip())
    assert (pieced.documents.to_text(), pieced.lines.to_text()) == (whole[0].to_text(), whole[1].to_text())


class Origin:
    """A run on bytes that never took place, for reading other data as its own."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, context: int = 64):
        self.folder, self.context, self.tokenizer = Store.at(str(folder)), context, tokenizer
        (folder / "tokenizer.json").write_text(tokenizer.to_json())

    def spec(self) -> Spec:
        return Spec.model_validate(small_spec(Path("none"), Path("none")))

    def manifest(self) -> dict[str, Any]:
        return {"context": self.context, "vocabulary": self.tokenizer.vocabulary, "document_id": self.tokenizer.document_id}


def cut_as_a_whole(tokenizer: Tokenizer, text: str, room: int) -> Iterator[tuple[int | None, list[int], str]]:
    ids = tokenizer.encode([text])[0].tolist()
    if len(ids) <= room:
        yield None, ids, text
        return
    starts = [0, *tokenizer.starts(text)[room::room], len(text)]
    for piece, at in enumerate(range(0, len(ids), room)):
        yield piece, ids[at : at + room], text[starts[piece] : starts[piece + 1]]


@pytest.mark.parametrize("context", [64, 2**22])
def test_embed_cuts_long_documents_as_whole_ones(context: int, tmp_path: Path) -> None:
    tokenizer, texts = of_words(), ["one", long_words(), "a somewhat longer text " * 30, "last"]
    for name, text in zip("abcd", texts, strict=True):
        (tmp_path / f"{name}.txt").write_text(text, newline="")
    reader = Reader(Origin(tmp_path, tokenizer, context))
    rows = [row for row in reader.read(source_of(tmp_path / "*.txt")) if isinstance(row, Row)]
    wanted = [piece for text in texts for piece in cut_as_a_whole(tokenizer, text, context - 1)]
    assert [(row.piece, row.content.tolist()[1:], row.text) for row in rows] == wanted  # type: ignore[union-attr]
    assert all(row.content[0] == tokenizer.document_id for row in rows)  # type: ignore[index]


def test_embed_numbers_documents_with_those_that_fail(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x\n" + b"a" * 28 + b"b\n\xff\nxx\n")
    rows = list(Reader(Origin(tmp_path, failing())).read(source_of(tmp_path / "a.txt", documents="line")))
    assert [row.position for row in rows] == ["document 0", "line 2", "line 3", "document 3"]
    assert [row.id for row in rows if isinstance(row, Row)] == [f"{tmp_path}/a.txt#{number}" for number in (0, 3)]


# --- the sample that a tokenizer is trained on ---


def test_a_long_document_gives_the_words_of_the_whole() -> None:
    text = long_text()
    of_long = LongDocuments(tokenizers.untrained(), word=10_000)
    found = list(sample([Document(text)], 2 * LONG, of_long))
    assert "".join(found) == text
    assert len(found) > 5
    assert of_long.cutter.words is not None
    assert [word for part in found for word in of_long.cutter.words(part)] == of_long.cutter.words(text)


def test_no_document_is_read_once_there_is_enough() -> None:
    read = []

    def documents() -> Iterator[Document]:
        for text in ("abcd", "efgh", "ijkl"):
            read.append(text)
            yield Document(text)

    assert list(sample(documents(), 6, LongDocuments(tokenizers.untrained()))) == ["abcd", "ef"]
    assert read == ["abcd", "efgh"]


def test_long_words_are_trained_on_in_parts() -> None:
    found = list(without_long_words(["ab cd", f"a {'x' * 300} b"]))
    assert found == ["ab cd", "a", " " + "x" * 127, "x" * 128, "x" * 45, " b"]


def test_different_words_and_long_words_of_long_documents_are_bounded() -> None:
    words = [f" {number:06d}" for number in range(LONG // 6)]
    of_long = LongDocuments(tokenizers.untrained(), different=5 * PIECE)
    found = "".join(sample([Document("".join(words))], 10 * LONG, of_long))
    assert found
    assert "".join(words).startswith(found)
    assert 3 * PIECE < len(found) <= 5 * PIECE
    assert list(sample([Document("".join(words)), Document("short")], 10 * LONG, of_long)) == ["short"]

    one = LongDocuments(tokenizers.untrained(), word=10)
    found_parts = list(sample([Document("a " + "xy" * LONG)], 40, one))
    assert "".join(found_parts) == "a " + "xy" * 19
    assert max(map(len, found_parts)) == 10


# --- documents that come in blocks ---


def test_a_long_document_is_the_same_in_memory_and_in_a_file() -> None:
    text = "\ufeff" + "aé世😀\n" * (LONG // 8)
    found = decode(text.encode(), "byte 0")
    assert isinstance(found, Document)
    assert found.text == text.removeprefix("\ufeff")
    assert found.size == Document(found.text).size == len(text.encode()) - 3
    assert max(map(len, found.parts())) <= 2**18
    assert "".join(found.parts()) == "".join(Document(found.text).parts()) == found.text


@pytest.mark.parametrize(
    ("end", "position", "reason"),
    [
        (b"\xff", "byte 2000000", "not UTF-8 (byte 0xff)"),
        ("é".encode()[:1], "byte 2000000", "not UTF-8 (byte 0xc3): it ends within a character"),
        (
            b"\0" * 8 + b"b",
            "byte 0",
            "holds NUL bytes, so it is not text (8 of 2,000,009 bytes, the first at offset 2,000,000)",
        ),
    ],
)
def test_a_long_document_that_is_bad_at_its_end_is_lost_as_a_whole(
    end: bytes, position: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes("é".encode() * 1_000_000 + end)
    source = source_of(tmp_path / "a.txt")
    made, samples, lost = shard_of(source, tokenizers.make_bytes(), tmp_path / "out")
    assert (samples, made.documents, made.text_bytes) == ([], 0, 0)
    (line,) = lost
    assert (line.position, line.lost, line.unit) == (position, 1, "file")
    assert line.reason.startswith(reason)


def test_a_long_document_whose_stream_breaks_off_is_lost_as_a_whole(tmp_path: Path) -> None:
    rng = random.Random(3)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(rng.randbytes(LONG).hex().encode())[:-9])
    made, samples, (line,) = shard_of(source_of(tmp_path / "a.txt.gz"), tokenizers.make_bytes(), tmp_path / "out")
    assert (samples, made.documents) == ([], 0)
    assert (line.lost, line.unit) == (1, "file")
    assert "the compressed stream is broken" in line.reason


def test_strays_of_nul_are_kept() -> None:
    gathering = DocumentBuilder("byte 0")
    for _ in range(40):
        gathering.add(b"a" * 50_000 + b"\0")
    found = gathering.document()
    assert isinstance(found, Document)
    assert found.text.count("\0") == 40


def test_memory_does_not_grow_with_a_document() -> None:
    tokenizer, blocks = tokenizers.make_bytes(), 40
    tracemalloc.start()
    try:
        gathering = DocumentBuilder("byte 0")
        for _ in range(blocks):
            gathering.add(b"words and " * 50_000)
        document = gathering.document()
        assert isinstance(document, Document)
        size = sum(piece.size for piece in Cutter(tokenizer).pieces(document))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == blocks * 500_000
    assert peak < 8 * 2**20


def test_white_space_alone_is_empty_however_long() -> None:
    assert decode(b" \n" * LONG, "byte 0") == BadRow("byte 0", "empty", 0)
