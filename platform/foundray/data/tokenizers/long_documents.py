"""Cuts long documents, so that no task tokenizes a whole one: that takes up to 300 bytes of memory per byte.

A document of up to `LONG` bytes stays whole. A longer one is cut where that does not change its tokens, if the tokenizer
has such positions:

- between any two characters, if each character or byte is a token;
- at the end of a word, if the tokenizer splits text into words with a regular expression that depends only on what follows,
  and does not change the text: byte-level byte-pair encoding as in GPT-2, Llama 3 or Foundray's own. A word here is a match
  of this expression. Words of up to `PIECE` / 8 characters stay whole. A longer one is cut after `PIECE` characters.

For all other tokenizers the rule is: within the first `PIECE` characters, after the last line break; without one, before the
last white space; without any, after `PIECE` characters. Tokens of the whole document may cross such a cut.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from tokenizers import NormalizedString, Regex
from tokenizers import Tokenizer as Engine

from foundray.data.formats.row import LONG, Document
from foundray.data.tokenizers.checks import EACH_CHARACTER
from foundray.data.tokenizers.encoding import EngineFailed, calling
from foundray.data.tokenizers.tokenizer import DOCUMENT, Tokenizer

PIECE = 2**17
"""Most characters of a long document tokenized together."""
MARGIN, HELD = 2**12, 4
"""Characters and words at the end of the text read so far where no cut is made: what follows may change them."""
TRIES = 64
"""Words before that margin after which a cut is tried."""
BATCH = 2**20
"""Most bytes of text tokenized in one call, unless a single document has more: about 300 MB of memory."""
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Expression that `use_regex` of a byte-level pre-tokenizer stands for."""
ONE = r"(?:\\[pP]\{[^{}]*\}|\\[sSdDwWrntfv]|\\[^\w\s]|\[(?:\\.|[^\]\\])*\]|[^\\\[\](){}|^$*+?])"
"""Parts of a regular expression that match one character."""
BEHIND = re.compile(r"\(\?<[=!]|\\[bBAzZGKkR1-9X]|\(\?~|\(\?\(|[\^$]")
"""Parts of a regular expression without classes that depend on text before a match, its end, or earlier groups."""


class Piece(NamedTuple):
    """A document, or a part of a long one."""

    document: Document
    text: str
    size: int
    """Bytes in UTF-8."""
    before: int = 0
    """Bytes of the document before the piece; 0 for the first one."""
    last: bool = True
    """Whether this is the document's last piece."""
    crossed: bool = False
    """Whether a token of the whole document may cross the cut before the piece."""

    @property
    def first(self) -> bool:
        """Whether this is the document's first piece."""
        return self.before == 0


class Cutter:
    """Cuts documents for a tokenizer."""

    def __init__(self, tokenizer: Tokenizer, long: int = LONG, most: int = PIECE, margin: int = MARGIN):
        """`long` is in bytes, `most` and `margin` are in characters."""
        self.long, self.most, self.margin = long, most, margin
        self.anywhere = _has_tokens_of_one_character(tokenizer.engine)
        self.words = None if self.anywhere else _words(tokenizer.engine)

    @property
    def exact(self) -> bool:
        """Whether cuts leave tokens unchanged, except within overlong words."""
        return self.anywhere or self.words is not None

    def pieces(self, document: Document) -> Iterator[Piece]:
        """Yield the document's text in pieces, in order."""
        if document.size <= self.long:
            yield Piece(document, document.text, document.size)
            return
        text, before, crossed = "", 0, False
        for part in document.parts():
            text += part
            while len(text) > self.most:
                end, sure = self._end(text[: self.most])
                size = len(text[:end].encode())
                yield Piece(document, text[:end], size, before, False, crossed)
                text, before, crossed = text[end:], before + size, not sure
        yield Piece(document, text, document.size - before, before, True, crossed)

    def _end(self, text: str) -> tuple[int, bool]:
        """(position to cut the beginning of a longer text at, whether no token can cross it)."""
        if self.anywhere:  # words stay whole nevertheless, for callers that count them
            return _before_space(text) or len(text), True
        if self.words is None:
            return _line_end(text) or _before_space(text) or len(text), False
        if end := self._word_end(text, self.words):
            return end, True
        return len(text), False

    def _word_end(self, text: str, words: Callable[[str], list[str]]) -> int:
        """End of the last word at which neither side depends on the other; 0 if there is none.

        A word may depend on what follows: the expressions leave the last of several spaces to the next word.
        """
        try:
            # Step back from the end of the text by the margin.
            found = calling(words, text)
            last, end = len(found), len(text)
            while last and (len(found) - last < HELD or end > len(text) - self.margin):
                last, end = last - 1, end - len(found[last - 1])
            # A cut is safe if splitting only the text just before it gives the same words.
            for _ in range(min(last, TRIES)):
                first, length = last, 0
                while first and (last - first < HELD or length < self.margin):
                    first, length = first - 1, length + len(found[first - 1])
                if calling(words, text[end - length : end]) == found[first:last]:
                    return end
                last, end = last - 1, end - len(found[last - 1])
        except EngineFailed:  # tokenizing will fail too, with a reason
            pass
        return 0


_Read = TypeVar("_Read")


def in_batches(pieces: Iterable[_Read], most: int = 4096, size: int = BATCH) -> Iterator[list[_Read]]:
    """Group neighbours for one call of the tokenizer: at most `most` of them or about `size` bytes; no group is empty.

    An element that is not a Piece has no size, and keeps its position.
    """
    batch, length = list[_Read](), 0
    for piece in pieces:
        more = piece.size if isinstance(piece, Piece) else 0
        if batch and length + more > size:
            yield batch
            batch, length = [], 0
        batch.append(piece)
        length += more
        if len(batch) == most or length >= size:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def recipe_of_cuts(tokenizer: Tokenizer) -> dict[str, str]:
    """Part of the cutting in the recipe of prepared data with documents over `LONG` bytes; empty if cuts are exact."""
    return {} if Cutter(tokenizer).exact else {"long_documents": f"cut at lines, of {PIECE} characters at most"}


def cutting(cutter: Cutter, documents: int) -> str:
    """Sentence about documents that were cut where tokens may change; empty if none was."""
    if not documents:
        return ""
    several, were = (f"{documents:,} documents", "were") if documents > 1 else ("1 document", "was")
    if cutter.words is not None:
        return f"words of over {cutter.most // 8:,} characters in {several} were cut after {cutter.most:,} characters"
    where = "after line breaks or before white space, since tokens of this tokenizer may cross any cut"
    return f"{several} over {LONG >> 20} MiB {were} cut {where}"


def _has_tokens_of_one_character(engine: Engine) -> bool:
    """Whether each character, or each byte, becomes a token regardless of its neighbours."""
    if engine.normalizer is not None or _ordinary_added(engine):
        return False
    parts = _parts(engine)
    if parts == [EACH_CHARACTER]:
        return type(engine.model).__name__ == "WordLevel"
    if [(part["type"], part.get("use_regex"), part.get("add_prefix_space")) for part in parts] != [("ByteLevel", False, False)]:
        return False
    tokens = set(engine.get_vocab(with_added_tokens=False)) - {DOCUMENT}
    if type(engine.model).__name__ != "BPE" or len(tokens) != 256 or any(len(token) != 1 for token in tokens):
        return False
    return not json.loads(engine.to_str())["model"]["merges"]


def _words(engine: Engine) -> Callable[[str], list[str]] | None:
    """Function that splits text into words tokenized independently and of the text before them; None if there is none."""
    if engine.normalizer is not None or _ordinary_added(engine):
        return None
    patterns = [_pattern(part) for part in _parts(engine)]
    expressions = [pattern for pattern in patterns if pattern]
    if None in patterns or not expressions or not all(map(follows, expressions)):
        return None
    if any(part["type"] != "Digits" for part in _parts(engine) if _pattern(part) in expressions[:-1]):
        return None  # the first expression would not begin a match where the second one splits
    compiled = [Regex(expression) for expression in expressions]

    def words(text: str) -> list[str]:
        found = [NormalizedString(text)]
        for expression in compiled:
            found = [word for whole in found for word in whole.split(expression, "isolated")]
        return [word.original for word in found]

    return words


def _pattern(part: dict) -> str | None:
    """Expression that a pre-tokenizer splits by; empty if it does not split, None if it splits in another way."""
    match part:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": bool(cuts)}:
            return GPT2 if cuts else ""
        case {"type": "Split", "pattern": {"Regex": str(expression)}, "behavior": "Isolated", "invert": False}:
            return expression
        case {"type": "Digits", "individual_digits": bool(each)}:
            return r"\p{N}" if each else r"\p{N}+"
    return None


def follows(expression: str) -> bool:
    """Whether a match depends only on the text from its start to one character after it."""
    rest = re.sub(rf"\(\?[=!]{ONE}\)", "", expression)
    if "(?=" in rest or "(?!" in rest:
        return False
    return BEHIND.search(re.sub(r"\\[pP]\{[^{}]*\}|\[(?:\\.|[^\]\\])*\]", "", rest)) is None


def _parts(engine: Engine) -> list[dict]:
    """Fields of the pre-tokenizers in tokenizer.json, in order."""
    if engine.pre_tokenizer is None:
        return []
    whole = json.loads(engine.pre_tokenizer.__getstate__())
    return list(whole["pretokenizers"]) if whole["type"] == "Sequence" else [whole]


def _ordinary_added(engine: Engine) -> bool:
    """Whether it has added tokens that text can spell; they are matched before text is split into words."""
    return any(not token.special for token in engine.get_added_tokens_decoder().values())


def _line_end(text: str) -> int:
    """End of the last line; 0 if there is none."""
    return text.rfind("\n") + 1


def _before_space(text: str) -> int:
    """Start of the last white space; 0 if there is none, or nothing before it."""
    kept = text.rstrip()
    if len(kept) < len(text):
        return len(kept)
    return len(text[: -len(text.rsplit(None, 1)[-1])].rstrip())
