"""Ogg files: pages of one or several streams. libsndfile reads only the first stream, and only if it is audio.

Streams follow each other (chained) or alternate (multiplexed). A page has a checksum, a number in its stream, and the time
at its end. Decoders silently skip damaged pages, so this module finds them. See RFC 3533.
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
"""Mark, version, flags, end time (in samples; -1 if no packet ends here), stream, number, checksum, segments."""
FIRST, LAST = 2, 4
"""Flags of a stream's first and last page."""
AUDIO = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ")
"""First bytes of an audio stream's first packet."""
DAMAGED = 10_000
"""Consecutive incomplete pages after which reading stops (judgement: 40 MB of sound)."""
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Each byte with its bits reversed."""


class Page(NamedTuple):
    at: int
    size: int
    flags: int
    time: int
    stream: int
    number: int
    body: int
    """Offset of the page's content."""
    whole: bool
    """Whether it is complete and its checksum is right."""


@dataclass
class _Stream:
    pages: list[Page] = field(default_factory=list)
    begun: bool = False
    """Whether the first page was found."""
    audio: bool = False


def recordings(content: bytes) -> list[tuple[int, bytes | Unreadable]]:
    """(offset, bytes) of each recording in a file, as a file of its own; a single stream keeps the file's bytes."""
    found, current = list[_Stream](), dict[int, _Stream]()
    for page in (page for page in pages(content) if page.whole):
        if page.flags & FIRST:
            if any(len(stream.pages) > 1 or not stream.begun for stream in current.values()):
                current = {}  # the streams before have ended or are cut off
            current[page.stream] = _Stream(begun=True, audio=_is_audio(content, page))
            found.append(current[page.stream])
        elif page.stream not in current or current[page.stream].pages[-1].flags & LAST:
            current[page.stream] = _Stream(audio=True)
            found.append(current[page.stream])
        current[page.stream].pages.append(page)
    audio = [stream for stream in found if stream.audio]
    if not audio or (len(audio) == 1 and audio[0] is found[0]):
        return [(0, content)]
    return [(stream.pages[0].at, _as_file(content, stream)) for stream in audio]


def missing(content: bytes, rate: int) -> str:
    """Clause about what is missing of a file's only recording; empty if nothing is. `rate` is the time unit in Hz."""
    before: Page | None = None
    time = 0
    for page in pages(content):
        if not page.whole or (before is not None and page.stream != before.stream):
            continue
        if before is None and not (page.flags & FIRST and _is_audio(content, page)):
            continue
        if before is not None and page.number != (before.number + 1) % 2**32:
            until = f" to second {page.time / rate:.2f}" if page.time >= 0 else ""
            at = before.at + before.size
            return f"a page is missing or damaged at byte {at}: the sound from second {time / rate:.2f}{until} is incomplete"
        if page.flags & LAST:
            return ""
        before, time = page, max(time, page.time)
    return f"its last page is missing or incomplete: it ends after second {time / rate:.2f}"


def pages(content: bytes) -> Iterator[Page]:
    """Yield all pages that begin with the mark, in order, up to `DAMAGED` incomplete ones in a row."""
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
    """CRC-32 with the bits of each byte in the reverse of zlib's order, and nothing inverted."""
    reflected = ~zlib.crc32(page.translate(REVERSED), 0xFFFFFFFF) & 0xFFFFFFFF
    return int.from_bytes(reflected.to_bytes(4, "little").translate(REVERSED), "big")


def _is_audio(content: bytes, page: Page) -> bool:
    return content.startswith(AUDIO, page.body)


def _as_file(content: bytes, stream: _Stream) -> bytes | Unreadable:
    if not stream.begun:
        return Unreadable("the first page of a recording is missing or damaged", unit="recording")
    return b"".join(content[page.at : page.at + page.size] for page in stream.pages)
