"""CoNLL-U, the format of Universal Dependencies: a document is the sentences of a `newdoc`, one per line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pyarrow as pa

from foundray.contract import Unreadable
from foundray.data.formats.lines import merge_repeats, numbered_lines, or_empty
from foundray.data.formats.row import BOM, BadRow, Document, decode
from foundray.spec import SourceConfig
from foundray.wording.words import plural

COLUMNS = 10
NUL = "holds NUL bytes, so it is not text"
NO_WORDS = "no comment holds its text, and its words are '_': the treebank is published without them"
_TEXT = re.compile(rb"#\s*text\s*= ?(.*\S.*)", re.DOTALL)
_DOCUMENT = re.compile(rb"#\s*newdoc\b")
_FIRST_COMMENT = re.compile(rb"#\s*(?:sent_id\s*=|text\s*=|newpar\b|newdoc\b)")
"""Comments that come before a sentence's words, never between them."""
_ID = re.compile(rb"(\d{1,9})(?:([-.])(\d{1,9}))?")
_ESCAPED = {b"s": b" ", b"t": b"\t", b"p": b"|", b"\\": b"\\"}
"""UDPipe's escapes in SpacesAfter, except for line breaks."""


def read(handle: pa.NativeFile, path: str, source: SourceConfig) -> Iterator[Document | BadRow]:
    """The documents of a treebank, which `# newdoc` comments start, one sentence per line.

    A sentence's text is that of its comment `# text = ...`, or else its words, with the spaces that the last column gives.
    """
    yield from or_empty(_documents(handle, path))


def _documents(handle: pa.NativeFile, path: str) -> Iterator[Document | BadRow]:
    start, texts = 1, list[str]()
    for row in merge_repeats(merge_repeats(_texts(handle, path), NUL), NO_WORDS):
        if isinstance(row, int):
            if texts:
                yield Document("\n".join(texts), f"line {start}")
            start, texts = row, []
        elif isinstance(row, Document):
            texts.append(row.text)
        else:
            yield row
    if texts:
        yield Document("\n".join(texts), f"line {start}")


def _texts(handle: pa.NativeFile, path: str) -> Iterator[Document | BadRow | int]:
    """The text of each sentence, a BadRow for each that has none, and the line number of each start of a document."""
    words: list[tuple[int, bytes]] = []
    has_text = False  # whether a comment held the sentence's text
    for number, line in numbered_lines(handle, path):
        if isinstance(line, BadRow):
            words, has_text = [], False  # the sentence is incomplete
            yield line
            continue
        # A blank line, or one that can only start a sentence, ends the sentence before it.
        line = line.removeprefix(BOM)
        if not line.strip() or (words and _starts_a_sentence(line, words)):
            yield from () if has_text else _from_words(words)
            words, has_text = [], False
        # Comments that count, and words.
        if _DOCUMENT.match(line):
            yield number
        elif text := _TEXT.match(line):
            has_text = True
            yield _decoded(text[1], number)
        elif line.strip() and not line.startswith(b"#"):
            words.append((number, line))
    yield from () if has_text else _from_words(words)


def _starts_a_sentence(line: bytes, words: Sequence[tuple[int, bytes]]) -> bool:
    """Whether a sentence starts here, although no blank line ends the one before."""
    if line.startswith(b"#"):
        return _FIRST_COMMENT.match(line) is not None
    return re.match(rb"1[\t-]", line) is not None and any(word.startswith(b"1\t") for _, word in words)


def _from_words(words: Sequence[tuple[int, bytes]]) -> Iterator[Document | BadRow]:
    """The text of a sentence, put together from its words, if there are any."""
    if not words:
        return
    number = words[0][0]
    try:
        parts = list(_forms(words))
    except Unreadable as error:
        yield BadRow.of(error, f"line {number}")
    else:
        blank = all(form == b"_" for form, _ in parts)
        text = b"".join(form + space for form, space in parts).rstrip()
        yield BadRow(f"line {number}", NO_WORDS, 1, "sentence") if parts and blank else _decoded(text, number)


def _forms(words: Sequence[tuple[int, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """(form, space after it) of each token as written. Several words may share a token. Raises Unreadable."""
    shared = 0  # number of the last word that shares the token before
    for number, line in words:
        columns = line.split(b"\t")
        if b"\0" in line:
            raise Unreadable(NUL, unit="sentence")
        if len(columns) != COLUMNS:
            reason = f"line {number} has {plural(len(columns), 'tab-separated column')}, not {COLUMNS}"
            raise Unreadable(f"no comment holds its text, and {reason}", unit="sentence")
        if (found := _ID.fullmatch(columns[0])) is None:
            raise Unreadable(f"no comment holds its text, and line {number} does not start with a number", unit="sentence")
        if found[2] == b"." or (found[2] is None and int(found[1]) <= shared):
            continue
        if found[2] == b"-":
            shared = int(found[3])
        yield columns[1], _space(columns[-1])


def _space(miscellaneous: bytes) -> bytes:
    """The space after a token, from its last column."""
    values = miscellaneous.strip().split(b"|")
    if b"SpaceAfter=No" in values:
        return b""
    spaces = next((value.removeprefix(b"SpacesAfter=") for value in values if value.startswith(b"SpacesAfter=")), b"")
    spaces = re.sub(rb"\\(.)", lambda escaped: _ESCAPED.get(escaped[1], b"\n"), spaces)
    return spaces if spaces and not spaces.strip(b" \t") else b" "  # a line break is a space, since a sentence is a line


def _decoded(text: bytes, number: int) -> Document | BadRow:
    found = decode(text, f"line {number}", unit="sentence")
    return BadRow(f"line {number}", NUL, 1, "sentence") if isinstance(found, BadRow) and b"\0" in text else found
