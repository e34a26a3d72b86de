"""Headers of tar archives: finding and reading them. tarfile parses the formats."""

from __future__ import annotations

import functools
import io
import posixpath
import re
import tarfile
from typing import Any, cast

from foundray.data.files.ahead import LookAhead
from foundray.data.files.compression import Broken
from foundray.data.files.names import bare

BLOCK = 512
EXTENDED = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
"""Types of headers that extend that of the next member, such as by a long name."""
MAGIC, MAGIC_AT = b"ustar", 257
CHECKSUM = slice(148, 156)
_OLD_CHECKSUM = re.compile(rb"[ 0]*[0-7]+[ \0]+")
_SIZE = re.compile(rb"(?:\A|\n)\d+ size=(\d{1,19})\n")
_NUMBERED = re.compile(r"(.*?)(\d{1,18})(\D*)", re.DOTALL)


class Blocks(LookAhead):
    """A look-ahead stream that ends where a compressed stream breaks, until `broken` is set to None again."""

    def __init__(self, stream: Any):
        super().__init__(stream)
        self.broken: OSError | None = None
        """The error that ended the stream."""
        self.notes: list[Broken] = []
        """Damage between or after compressed streams, which costs no content."""

    def _more(self, size: int) -> bytes:
        while self.broken is None:
            try:
                return super()._more(size)
            except Broken as error:
                if error.whole:
                    self.notes.append(error)
                else:
                    self.broken = error.with_traceback(None)
            except OSError as error:
                self.broken = error.with_traceback(None)
        return b""


class BadHeader(Exception):
    """An extended header that contradicts itself."""


@functools.lru_cache(maxsize=4)  # each block is parsed several times in a row
def header(block: bytes) -> tarfile.TarInfo | None:
    """The header in a block; None if it is not one, by its checksum."""
    try:
        found = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError, OverflowError):
        return None
    return found if found.size >= 0 else None


def with_fixed_checksum(block: bytes) -> tarfile.TarInfo | None:
    """The header in a block whose checksum is wrong; None if it is not one."""
    checksum = sum(block) - sum(block[CHECKSUM]) + 8 * ord(" ")
    return header(block[: CHECKSUM.start] + b"%06o\0 " % checksum + block[CHECKSUM.stop :])


def was_extended(block: bytes) -> bool:
    """Whether a damaged block was an extended header."""
    return block[156:157] in EXTENDED and any(name in block[:100] for name in (b"PaxHeader", b"@LongLink"))


def find(stretch: bytes, phase: int | None = None) -> int:
    """Offset of the first header in a stretch of bytes; -1 if there is none.

    A header with the POSIX magic may be anywhere, since the bytes lost or added need not be whole blocks. One of the oldest
    kind, which has no magic, is found only where a block starts: at `phase`, and whole blocks after it.
    """
    offset = magic = -1
    while (magic := stretch.find(MAGIC, magic + 1)) >= 0:
        start = magic - MAGIC_AT
        if start >= 0 and header(stretch[start : start + BLOCK]) is not None:
            offset = start
            break
    for start in () if phase is None else range(phase, len(stretch) - BLOCK + 1 if offset < 0 else offset, BLOCK):
        block = stretch[start : start + BLOCK]
        if block[0] and _OLD_CHECKSUM.fullmatch(block[CHECKSUM]) and header(block) is not None:
            return start
    return offset


def is_archive(name: str, content: bytes) -> bool:
    """Whether a member is itself an archive, whose members do not belong to the outer one."""
    return header(content[:BLOCK]) is not None and (bare(name).endswith(".tar") or content.endswith(bytes(2 * BLOCK)))


def padded_size(size: int) -> int:
    """Bytes of the whole blocks that hold `size` bytes."""
    return size + -size % BLOCK


def stored_size(info: tarfile.TarInfo, before: list[bytes]) -> int:
    """Bytes of a member's content in the archive. `before`: its extended headers."""
    if not info.isreg() and info.type in tarfile.SUPPORTED_TYPES:
        return 0  # links, directories and devices may have a size, and have no content
    sizes = [found[1] for one in before if one[156:157] in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
             for found in _SIZE.finditer(one, BLOCK)]  # fmt: skip
    return int(sizes[-1]) if sizes else info.size


def is_sparse(info: tarfile.TarInfo, before: list[bytes]) -> bool:
    return info.type == tarfile.GNUTYPE_SPARSE or any(b"GNU.sparse." in one for one in before)


def resolved(blocks: bytes) -> tarfile.TarInfo:
    """The header together with the extended ones before it. Damaged ones raise any exception."""
    with tarfile.TarFile(fileobj=io.BytesIO(blocks), encoding="utf-8", errors="surrogateescape") as archive:
        found = archive.next()
    if found is None:
        raise BadHeader("it is empty")
    return found


def expanded(info: tarfile.TarInfo, content: bytes, most: int) -> bytes:
    """The content of a sparse member with its holes; `content` has its data. Raises BadHeader."""
    parts: list[tuple[int, int]] = cast(Any, info).sparse or []
    ends = [0, *(start + size for start, size in parts)]
    in_order = all(start >= end and size >= 0 for (start, size), end in zip(parts, ends, strict=False))
    if not in_order or not ends[-1] <= info.size <= most or sum(size for _, size in parts) > len(content):
        raise BadHeader("the offsets of its data are inconsistent")
    found, at = bytearray(info.size), 0
    for start, size in parts:
        found[start : start + size] = content[at : at + size]
        at += size
    return bytes(found)


def escapes(name: str) -> bool:
    """Whether a member would be unpacked outside the target folder."""
    name = posixpath.normpath(name)
    return name.startswith("/") or name.split("/")[0] == ".."


def printable(name: str) -> str:
    """A name without bytes that are not UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def missing_between(before: list[str], after: str) -> int | None:
    """Number of members missing between two names and the next, if the names are numbered; None if they are not."""
    found = [_NUMBERED.fullmatch(name) for name in (*before[-2:], after)]
    if len(found) < 3 or not all(found):
        return None
    parts = [one.groups() for one in found if one]
    if len({(prefix, suffix) for prefix, _, suffix in parts}) > 1:
        return None
    first, second, third = (int(number) for _, number, _ in parts)
    return None if second != first + 1 else max(0, third - second - 1)
