"""Why bytes are not text, and what they look like instead: reasons in the quarantine."""

from __future__ import annotations

import re

MAGIC = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"RIFF": "a RIFF file (WAV, AVI or WebP)",
    b"OggS": "Ogg sound",
    b"fLaC": "FLAC sound",
    b"ID3": "MP3 sound",
    b"%PDF": "a PDF document",
    b"\xd0\xcf\x11\xe0": "an old Office document",
    b"PK\x03\x04": "a ZIP archive or an Office document",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"\x1f\x8b": "gzip data (the file's name should end in .gz)",
    b"\x28\xb5\x2f\xfd": "Zstandard data (the file's name should end in .zst)",
    b"\xfd7zXZ": "xz data (the file's name should end in .xz)",
    b"BZh": "bzip2 data (the file's name should end in .bz2)",
    b"\x7fELF": "a program",
    b"SQLite format 3": "an SQLite database",
    b"PAR1": "Parquet (format: parquet)",
    b"ARROW1": "Arrow data",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "HDF5 data",
}
"""The first bytes of files of other kinds."""
BOMS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
"""Byte order marks of other encodings, the longer ones first."""
TAR_AT = 257
"""Offset of a tar archive's magic, `ustar`."""
NUL_RUN = 8
"""Fewest NUL bytes in a row that are not strays, but a hole in the file or the padding of a binary format."""
NUL_SHARE = 1 / 1000
"""Largest share of NUL bytes that are kept as strays in a text. Judgement: in UTF-16 about half of the bytes are NUL."""
LATIN_SHARE = 1 / 3
"""Largest share of bytes from 0x80 on in Western European text with one byte per character. Judgement."""


def not_utf8(content: bytes, at: int, offset: int, name_offset: bool = True, cut_off: bool = False) -> str:
    """Why content is not UTF-8. Its byte `at`, which is the document's byte `offset`, is wrong."""
    for mark, name in BOMS.items():
        if offset == 0 and content.startswith(mark):
            return f"{name} by its byte order mark, not UTF-8; convert it: iconv -f {name} -t UTF-8"
    where = f"byte 0x{content[at]:02x}" + (f" at offset {offset:,}" if name_offset else "")
    if cut_off and max(content[:at], default=0x80) >= 0x80:  # in Latin-1 this byte would be the first beyond ASCII
        return f"not UTF-8 ({where}): it ends within a character"
    if offset == at and (kind := looks_like(content)):
        return f"not UTF-8 ({where}): it looks like {kind}"
    if _maybe_single_byte(content):
        return f"not UTF-8 ({where}): it looks like Latin-1 or Windows-1252; convert it: iconv -f WINDOWS-1252 -t UTF-8"
    return f"not UTF-8 ({where})"


def holds_nul(start: bytes, count: int, size: int, first: int) -> str:
    """Why content with `count` NUL bytes among `size`, the first at offset `first`, is not text."""
    if kind := looks_like(start):
        hint = f"; it looks like {kind}"
    elif wide := _wide_encoding(start):
        hint = f"; it looks like {wide}: iconv -f {wide} -t UTF-8 converts it"
    else:
        hint = ""
    return f"holds NUL bytes, so it is not text ({count:,} of {size:,} bytes, the first at offset {first:,}){hint}"


def looks_like(content: bytes) -> str:
    """The kind of file that starts like this; empty if unknown."""
    if content[TAR_AT : TAR_AT + 5] == b"ustar":
        return "a tar archive (format: webdataset)"
    return next((kind for magic, kind in MAGIC.items() if content.startswith(magic)), "")


def _wide_encoding(content: bytes) -> str:
    """The encoding with two or four bytes per character that explains the NUL bytes; empty if none does."""
    if len(content) < 4:
        return ""
    zero_shares = [content[at::4].count(0) / len(content[at::4]) for at in range(4)]
    full, none = [share > 0.7 for share in zero_shares], [share < 0.3 for share in zero_shares]
    match full, none:
        case [False, True, True, True], [True, *_]:
            return "UTF-32LE"
        case [True, True, True, False], [*_, True]:
            return "UTF-32BE"
        case [False, True, False, True], [True, _, True, _]:
            return "UTF-16LE"
        case [True, False, True, False], [_, True, _, True]:
            return "UTF-16BE"
    return ""


def _maybe_single_byte(content: bytes) -> bool:
    """Whether content may be text with one byte per character: few are beyond ASCII, none is undefined or a control."""
    non_ascii = len(re.findall(rb"[\x80-\xff]", content))
    control = re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f\x81\x8d\x8f\x90\x9d]", content)
    return control is None and non_ascii <= LATIN_SHARE * len(content)
