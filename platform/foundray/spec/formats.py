"""The registry of data formats: one row per format, which the spec, the readers and their messages share.

A reader is named, not imported: this table costs no import of pyarrow. `data.formats.reader` imports it at the first use.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """How one kind of file is recognized and read."""

    name: str
    """The value of `data.sources.N.format`."""
    title: str
    """The format in the spec's documentation."""
    module: str
    """Module of `foundray.data.formats` whose `read` gives the documents of an open file."""
    endings: tuple[str, ...]
    """Endings of its files, in lower case, without that of a compression; an empty one matches every name."""
    has_columns: bool = False
    """Whether the module also has a `column`, which gives the values of any column or field, such as labels."""
    is_archive: bool = False
    """Whether its files hold files of the other formats."""
    rewrites: bool = False
    """Whether the module also has `REWRITES`: what it does to the letters of a text."""


_ROWS = (
    Format("text", "plain text", "text", ("",)),
    Format(
        "code", "source code", "text",
        (
            ".c", ".cc", ".cpp", ".cs", ".cu", ".go", ".h", ".hpp", ".java", ".jl", ".js", ".jsx", ".kt", ".lua", ".ml", ".php",
            ".pl", ".py", ".r", ".rb", ".rs", ".scala", ".sh", ".sql", ".swift", ".ts", ".tsx", ".zig",
        ),
    ),
    Format("jsonl", "JSON Lines", "jsonl", (".jsonl", ".json", ".ndjson", ".jsonlines"), has_columns=True),
    Format("csv", "CSV", "csv", (".csv", ".tsv"), has_columns=True),
    Format("parquet", "Parquet", "parquet", (".parquet", ".pq"), has_columns=True),
    Format("fasta", "FASTA", "fasta", (".fasta", ".fa", ".fna", ".ffn"), rewrites=True),
    Format("conllu", "the sentences of a treebank (CoNLL-U)", "conllu", (".conllu",)),
    Format("webdataset", "tar archives (WebDataset)", "archive", (".tar",), is_archive=True),
)  # fmt: skip

FORMATS = {row.name: row for row in _ROWS}
DOCUMENTS = {row.name: row for row in _ROWS if not row.is_archive}
"""The formats of documents, which archives hold, too."""
ARCHIVES = {row.name: row for row in _ROWS if row.is_archive}
NAMES = ("auto", *DOCUMENTS, "files", *ARCHIVES)
"""Every value of `data.sources.N.format`: `files` are a modality's own."""


def listed(names: Iterable[str], last: str = "or") -> str:
    """`text, code or csv`."""
    *others, final = names
    return f"{', '.join(others)} {last} {final}" if others else final
