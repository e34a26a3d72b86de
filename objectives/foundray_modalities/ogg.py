"""Ogg files: pages of one or several streams, of which libsndfile reads the first alone, and only if it is sound.

Streams follow each other (chained) or take turns (multiplexed). A page has a checksum, a number in its stream, and the time
at its end; a decoder passes over damaged ones in silence, so that they are found here. See RFC 3533.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from foundray.contract import Unreadable

MARK = b"OggS"
HEADER = struct.Struct("<4sBBqIIIB")
"""Mark, version, flags, time at the end (in samples; -1 if no packet ends here), stream, number, checksum, segments."""
FIRST, LAST = 2, 4
"""Flags."""
AUDIO = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ")
"""What the first packet of a stream of sound begins with."""
DAMAGED = 10_000
"""Pages that are not whole, in a row, behind which none is read (judgement: 40 MB of sound)."""
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Each byte with its bits in the other order."""


class Page(NamedTuple):
    at: int
    size: int
    flags: int
    time: int
    stream: int
    number: int
    body: int
    """Offset of its content."""
    whole: bool
    """All there, and its checksum right."""


@dataclass
class _Stream:
    pages: list[Page] = field(default_factory=list)
    begun: bool = False
    """Whether its first page is there."""
    audio: bool = False


def recordings(content: bytes) -> list[tuple[int, bytes | Unreadable]]:
    """(offset, bytes) of each recording in a file, as a file of its own; a stream that is alone is the file as it is."""
    found, together = list[_Stream](), dict[int, _Stream]()
    for page in (page for page in pages(content) if page.whole):
        if page.flags & FIRST:
            if any(len(stream.pages) > 1 or not stream.begun for stream in together.values()):
                together = {}  # those before have come to their end, or broke off
            together[page.stream] = _Stream(begun=True, audio=_is_audio(content, page))
            found.append(together[page.stream])
        elif page.stream not in together or together[page.stream].pages[-1].flags & LAST:
            together[page.stream] = _Stream(audio=True)
            found.append(together[page.stream])
        together[page.stream].pages.append(page)
    heard = [stream for stream in found if stream.audio]
    if not heard or (len(heard) == 1 and heard[0] is found[0]):
        return [(0, content)]
    return [(stream.pages[0].at, _alone(content, stream)) for stream in heard]


def missing(content: bytes, rate: int) -> str:
    """What is not there of a file's one recording, as a clause; nothing if all is. `rate`: times a second."""
    before: Page | None = None
    time = 0
    for page in pages(content):
        if not page.whole or (before is not None and page.stream != before.stream):
            continue
        if before is None and not (page.flags & FIRST and _is_audio(content, page)):
            continue
        if before is not None and page.number != (before.number + 1) % 2**32:
            until = f" and second {page.time / rate:.2f}" if page.time >= 0 else ""
            at = before.at + before.size
            return f"a page is missing or damaged at byte {at}: between second {time / rate:.2f}{until} not all is there"
        if page.flags & LAST:
            return ""
        before, time = page, max(time, page.time)
    return f"its last page is missing, or not whole: it breaks off behind second {time / rate:.2f}"


def pages(content: bytes) -> Iterator[Page]:
    """All that begin with the mark, in order, up to very many in a row that are not whole."""
    at, damaged = content.find(MARK), 0
    while at >= 0 and damaged < DAMAGED:
        page = _page(content, at)
        yield page
        damaged = 0 if page.whole else damaged + 1
        at = content.find(MARK, at + (page.size if page.whole else len(MARK)))


def _page(content: bytes, at: int) -> Page:
    head = content[at : at + HEADER.size]
    if len(head) < HEADER.size:
        return Page(at, len(head), 0, -1, 0, 0, 0, False)
    _, version, flags, time, stream, number, checksum, segments = HEADER.unpack(head)
    body = at + HEADER.size + segments
    size = HEADER.size + segments + sum(content[at + HEADER.size : body])
    blanked = head[:22] + bytes(4) + content[at + 26 : at + size]
    whole = version == 0 and len(blanked) == size and _checksum(blanked) == checksum
    return Page(at, size, flags, time, stream, number, body, whole)


def _checksum(page: bytes) -> int:
    """CRC-32 with the bits of each byte the other way round than zlib's, and nothing inverted."""
    mirrored = ~zlib.crc32(page.translate(REVERSED), 0xFFFFFFFF) & 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(REVERSED), "big")


def _is_audio(content: bytes, page: Page) -> bool:
    return content.startswith(AUDIO, page.body)


def _alone(content: bytes, stream: _Stream) -> bytes | Unreadable:
    if not stream.begun:
        return Unreadable("the page that a recording begins with is missing or damaged", unit="recording")
    return b"".join(content[page.at : page.at + page.size] for page in stream.pages)
