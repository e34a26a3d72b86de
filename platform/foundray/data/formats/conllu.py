"""CoNLL-U, the format of Universal Dependencies: a document is a sentence a line, or the sentences of a document."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from foundray.data.formats.lines import numbered_lines
from foundray.data.formats.row import BadRow, Document, decode
from foundray.spec import Source


def read(handle: pa.NativeFile, path: str, source: Source) -> Iterator[Document | BadRow]:
    """The texts of a treebank of Universal Dependencies, a sentence a line; where it tells documents, each is one."""
    start, sentences = 1, list[bytes]()
    for number, line in numbered_lines(handle, path):
        if isinstance(line, BadRow):
            yield line
            break
        if line.startswith(b"# newdoc"):
            if sentences:
                yield decode(b"\n".join(sentences), f"line {start}")
            start, sentences = number, []
        elif line.startswith(b"# text = "):
            sentences.append(line.removeprefix(b"# text = "))
    if sentences:
        yield decode(b"\n".join(sentences), f"line {start}")
