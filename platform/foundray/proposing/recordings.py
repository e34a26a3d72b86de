"""Recordings: their rate and length, and the frames that suit them."""

from __future__ import annotations

import io
import shlex
import statistics
from collections.abc import Iterator, Sequence
from itertools import islice

import soundfile

from foundray.data.files.files import RawFile
from foundray.data.formats.tar import members
from foundray.errors import InputError
from foundray.proposing.choices import Choice
from foundray.proposing.kinds import Group
from foundray.proposing.prefix import contents, measured_bytes
from foundray.wording.words import duration, plural, size

SEEN = 24
"""Recordings that are looked at."""
UNIT_SECONDS = 0.02
"""A unit is two frames of 10 ms, as in the example."""
CONTEXTS = (200, 150, 100, 75, 50, 32, 16)
"""Units per sample: up to four seconds."""


def look(place: str, group: Group, gpu: bool) -> Choice:
    """Choose rate, bins and context. Raises InputError if no recording can be read."""
    seen = list(_seen(group.files))
    if not seen:
        raise InputError(f"{place}: none of {plural(min(SEEN, len(group.files)), 'recording')} can be read")
    rates, lengths, sizes = zip(*seen, strict=True)
    rate = min(16_000, int(statistics.median(rates)))
    rate = next((usual for usual in (16_000, 8_000) if rate >= usual), max(1_000, rate))
    bins = 80 if rate >= 16_000 else 40 if rate >= 8_000 else 16
    total = sum(file.size * _inside(file) for file in group.files) * sum(lengths) / sum(sizes)
    middle = statistics.median(lengths)
    context = next((one for one in CONTEXTS if one * UNIT_SECONDS <= max(middle, total / 1000)), CONTEXTS[-1])
    found = [
        f"recordings: {plural(len(group.files), 'file')} ({group.endings()}), {size(group.bytes)}, about {duration(total)}; "
        f"{duration(min(lengths))} to {duration(max(lengths))} long, {', '.join(f'{one:,} Hz' for one in sorted(set(rates)))}"
    ]
    units = total / UNIT_SECONDS
    return Choice(
        modality={"kind": "audio", "rate": rate, "bins": bins, "stack": 2},
        sources=[{"path": place, "format": group.files[0].format}],
        objective={"kind": "next_frame", "ahead": 2}, units=units, samples=units / context, context=context,
        width=2 * bins, found=found,
        notes={
            "modality": "frames of a log-mel spectrogram; a unit is two, 20 ms",
            "objective": "40 ms ahead; or: masked_frame, for features; see docs/objectives.md",
            "model": f"a sample is {context * UNIT_SECONDS:g} s",
        },
        then=f"foundray embed {{name}} {shlex.quote(place)} vectors",
    )  # fmt: skip


def _inside(file: RawFile) -> float:
    """Bytes of content per stored byte; more than 1 in a compressed archive."""
    return measured_bytes(file, 2**20)[1] if file.format == "webdataset" else 1.0


def _seen(files: Sequence[RawFile]) -> Iterator[tuple[int, float, int]]:
    """(rate in Hz, length in seconds, bytes) of some recordings."""
    for content in contents(files, SEEN, _in_archive):
        try:
            facts = soundfile.info(io.BytesIO(content))
        except (RuntimeError, soundfile.SoundFileError):
            continue
        yield facts.samplerate, facts.frames / facts.samplerate, len(content)


def _in_archive(stream: io.BufferedReader) -> Iterator[bytes]:
    sounds = (content for _, content in members(stream) if isinstance(content, bytes) and len(content) > 44)
    return islice(sounds, SEEN + 1)
