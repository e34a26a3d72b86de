"""Tokenizers, made or trained once for a data set and stored as a Hugging Face `tokenizer.json`.

One token, `document_id`, opens every document: attention does not cross it, and it marks where a text ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Engine

DOCUMENT, UNKNOWN = "<|document|>", "<|unknown|>"


class Tokenizer:
    """Text to token ids and back."""

    def __init__(self, engine: Engine, document_id: int):
        # Text that merely spells a special token must not become one.
        engine.encode_special_tokens = True
        self.engine, self.document_id = engine, document_id

    @property
    def vocabulary(self) -> int:
        """Size of the vocabulary: ids lie in range(vocabulary)."""
        return max(self.engine.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids (int32) of each text, without the opening token."""
        return [np.array(e.ids, np.int32) for e in self.engine.encode_batch_fast(texts, add_special_tokens=False)]

    def starts(self, text: str) -> list[int]:
        """Index of the character at which each token of `encode` begins."""
        return [start for start, _ in self.engine.encode(text, add_special_tokens=False).offsets]

    def decode(self, ids: Iterable[int]) -> str:
        return self.engine.decode([i for i in ids if i != self.document_id], skip_special_tokens=False)

    def to_json(self) -> str:
        return self.engine.to_str(pretty=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as JSON: the engine's own pickling forgets that special tokens are encoded as text."""
        return Tokenizer.from_json, (self.to_json(), self.document_id)

    @staticmethod
    def from_json(text: str, document_id: int) -> Tokenizer:
        return Tokenizer(Engine.from_str(text), document_id)


def make_bytes() -> Tokenizer:
    """Make a tokenizer with one token per byte: id 0 opens documents, id 1 + b is byte b."""
    letters = {_byte_letter(b): b + 1 for b in range(256)}
    return Tokenizer(_byte_level(models.BPE({DOCUMENT: 0, **letters}, []), split_words=False), 0)


def make_char(characters: Iterable[str]) -> Tokenizer:
    """Make a tokenizer with one token per character, and one unknown token for all others."""
    vocabulary = {token: i for i, token in enumerate([DOCUMENT, UNKNOWN, *sorted(characters)])}
    engine = Engine(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    engine.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    engine.decoder = decoders.Fuse()
    return Tokenizer(engine, 0)


def untrained() -> Tokenizer:
    """Tokenizer that `train_bpe` starts from; it splits text into words as the trained one does."""
    return Tokenizer(_byte_level(models.BPE(), split_words=True), 0)


def train_bpe(texts: Iterable[str], vocab_size: int, least_seen: int = 0) -> Tokenizer:
    """Train byte-level byte-pair encoding, as in GPT-2 (Radford et al. 2019), which can encode any text.

    Pairs seen less often than `least_seen` are not merged, so the vocabulary may be smaller than `vocab_size`.
    """
    engine = untrained().engine
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=least_seen,
        special_tokens=[DOCUMENT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(texts, trainer)
    return Tokenizer(engine, 0)


def _byte_level(model: models.Model, split_words: bool) -> Engine:
    engine = Engine(model)
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split_words)
    engine.decoder = decoders.ByteLevel()
    return engine


def _byte_letter(byte: int) -> str:
    """Printable character that byte-level tokenizers write for a byte (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if byte in printable:
        return chr(byte)
    return chr(0x100 + [b for b in range(256) if b not in printable].index(byte))
