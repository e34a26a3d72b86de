"""What a file's name says: whether it counts, how it is compressed, and what its format is. Case never matters.

One rule serves folders and archives alike.
"""

from __future__ import annotations

import posixpath

COMPRESSION = {".gz": "gzip", ".zst": "zstd", ".xz": "xz"}

ENDINGS: dict[str, tuple[str, ...]] = {
    "text": ("",),
    "code": (
        ".c", ".cc", ".cpp", ".cs", ".cu", ".go", ".h", ".hpp", ".java", ".jl", ".js", ".jsx", ".kt", ".lua", ".ml", ".php",
        ".pl", ".py", ".r", ".rb", ".rs", ".scala", ".sh", ".sql", ".swift", ".ts", ".tsx", ".zig",
    ),
    "jsonl": (".jsonl", ".json", ".ndjson"),
    "csv": (".csv",),
    "parquet": (".parquet", ".pq"),
    "fasta": (".fasta", ".fa", ".fna", ".ffn"),
    "conllu": (".conllu",),
    "webdataset": (".tar", ".tgz"),
}  # fmt: skip


def is_hidden(name: str) -> bool:
    """Whether a path inside a folder or archive leads through a hidden file or folder, or is what macOS left beside a file."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def compression(name: str) -> str | None:
    """How the file is compressed, by its ending."""
    return COMPRESSION.get(posixpath.splitext(name)[1].lower())


def bare(name: str) -> str:
    """The name in lower case, without the ending of a compression."""
    return (posixpath.splitext(name)[0] if compression(name) else name).lower()


def ends_in(name: str, endings: tuple[str, ...]) -> bool:
    """Whether the name, without a compression's ending, has one of these endings (in lower case)."""
    return bare(name).endswith(endings)
