"""Sound files with several recordings or a wrong length: everything is read, or the rest is reported."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.unit.files import archive, rows
from tests.unit.sounds import audio, encoded, sound

from foundray.contract import Unreadable
from foundray.data.prepare.sources import BadRow
from foundray_modalities import mpeg, ogg, recording

KINDS = [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("OGG", "OPUS")]
ID3 = b"ID3\x04\0\0\0\0\x0f\x76" + bytes(15 * 128 + 0x76)
ID3_AT_THE_END = b"TAG" + bytes(125)


def outcomes(content: bytes, length: int = 1000) -> list[tuple[str, Any]]:
    """(position, samples of its row; or reason, lost, unit) of everything read from a file."""
    found = list[tuple[str, Any]]()
    try:
        for position, row in audio().rows("x", content, length):
            said = (str(row), row.lost, row.unit) if isinstance(row, Unreadable) else len(decoded(row["audio"]))
            found.append((position, said))
    except Unreadable as error:
        found.append(("", (str(error), error.lost, error.unit)))
    return found


def decoded(content: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(content), always_2d=True)[0]


def page_ends(content: bytes) -> list[int]:
    return [page.at + page.size for page in ogg.pages(content)]


# Several recordings


@pytest.mark.parametrize(("form", "subtype"), KINDS)
def test_all_recordings_in_a_file_are_read(form: str, subtype: str) -> None:
    one, two = encoded(sound(8000), form, subtype), encoded(sound(24_000, 1, 2), form, subtype, 16_000)
    assert outcomes(one) == [("byte 0", 8000)]
    (_, row), (position, other) = audio().rows("x", one + two, 1000)
    assert position == f"recording 1, byte {len(one)}"
    assert np.array_equal(decoded(row["audio"]), decoded(one))
    assert np.array_equal(decoded(other["audio"]), decoded(two))
    assert len(audio().units(other, 1000, None)) == 148
    assert [position for position, _ in outcomes(one * 3)] == [f"recording {i}, byte {i * len(one)}" for i in range(3)]


@pytest.mark.parametrize(("form", "subtype"), KINDS)
def test_one_that_is_cut_does_not_cost_the_other(form: str, subtype: str) -> None:
    one, two = encoded(sound(48_000), form, subtype), encoded(sound(24_000, 1), form, subtype)
    (where, (reason, lost, unit)), (_, after) = outcomes(one[: len(one) // 2] + two)
    assert (where, lost, unit) == ("recording 0, byte 0", 1, "recording")
    assert any(said in reason for said in ("promises", "can be read", "it ends after second"))
    assert after == 24_000 or (form == "MP3" and 24_000 < after < 26_000)  # its first frame, a header, is in the cut one's last
    (_, before), (where, (_, lost, unit)) = outcomes(two + one[: len(one) // 2])
    assert (before, where, lost, unit) == (24_000, f"recording 1, byte {len(two)}", 1, "recording")


def test_long_recordings_in_one_file_are_cut_each_on_its_own() -> None:
    one, two = encoded(sound(4000)), encoded(sound(2000, 1))
    found = outcomes(one + two, length=10)  # twice ten units are 1720 samples
    assert found == [
        ("recording 0, sample 0", 1720), ("recording 0, sample 1720", 1720), ("recording 0, sample 3440", 560),
        ("recording 1, sample 0", 1720), ("recording 1, sample 1720", 280),
    ]  # fmt: skip


def test_chained_recordings_in_an_archive(tmp_path: Path) -> None:
    one = encoded(sound(8000), "OGG")
    path = archive(tmp_path / "a.tar", {"1.ogg": one + one[:-30], "2.ogg": one})
    found = rows(audio(), path, 1000, "webdataset")
    assert [row.position if isinstance(row, BadRow) else "recording" for row in found[:3]] == [
        "recording", f"1.ogg, recording 1, byte {len(one)}", "recording",
    ]  # fmt: skip


def test_bytes_after_or_between_recordings_are_no_recording() -> None:
    wav, flac = encoded(sound(8000)), encoded(sound(8000), "FLAC")
    note = b"LIST" + struct.pack("<I", 4) + b"abcd"
    assert outcomes(wav + note) == [("byte 0", 8000)]
    assert outcomes(wav + note + bytes(7)) == [("byte 0", 8000)]
    assert [said for _, said in outcomes(wav + note + wav)] == [8000, 8000]
    short = wav[:40] + struct.pack("<I", 10_000) + wav[44:]
    rest = ("6,000 bytes after the samples that its header promises are not read", 0, "recording")
    assert outcomes(short) == [("byte 0", 5000), ("byte 0", rest)]
    assert [said for _, said in outcomes(short + wav)] == [5000, 8000, rest]
    assert outcomes(ID3 + flac) == [("byte 0", 8000)]
    assert [said for _, said in outcomes(flac + ID3 + flac)] == [8000, 8000]
    block = flac[42:46]  # behind the first block of metadata: one that holds another FLAC, as a picture might
    inside = flac[:4] + b"\0" + flac[5:42] + b"\x02" + len(flac).to_bytes(3, "big") + flac + block + flac[46:]
    assert outcomes(inside) == [("byte 0", 8000)]


# Ogg


def test_streams_that_take_turns_are_all_read() -> None:
    one, two = encoded(sound(30_000), "OGG"), encoded(sound(50_000, 1), "OGG")
    assert len(page_ends(two)) > len(page_ends(one)) > 3
    pages = [
        [content[start:end] for start, end in zip([0, *page_ends(content)], page_ends(content), strict=False)]
        for content in (one, two)
    ]
    mixed = b"".join(a + b for a, b in zip(*pages, strict=False)) + b"".join(pages[1][len(pages[0]) :])
    found = [row for _, row in audio().rows("x", mixed, 1000)]
    assert [row["audio"] for row in found] == [one, two]


def test_a_stream_that_is_no_sound_is_passed_over() -> None:
    vorbis = encoded(sound(30_000), "OGG")
    first, *_ = page_ends(vorbis)
    skeleton, end = ogg_page(ogg.FIRST, b"fishead\0" + bytes(56)), ogg_page(ogg.LAST, b"", number=1)
    mixed = skeleton + vorbis[:first] + end + vorbis[first:]
    assert outcomes(mixed) == [("byte 0", 30_000)]
    assert [said for _, said in outcomes(mixed + mixed)] == [30_000, 30_000]


def ogg_page(flags: int, body: bytes, number: int = 0) -> bytes:
    parts = [ogg.HEADER.pack(ogg.MARK, 0, flags, 0, 7, number, checksum, 1) + bytes([len(body)]) + body for checksum in (0, 0)]
    checksum = ogg._checksum(parts[0])
    return parts[0][:22] + struct.pack("<I", checksum) + parts[0][26:]


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_damaged_and_missing_pages_are_reported(subtype: str) -> None:
    """libsndfile skips them; for Opus it then reports as many samples as it found."""
    content = encoded(sound(50_000), "OGG", subtype)
    assert outcomes(content) == [("byte 0", 50_000)]
    start, end = page_ends(content)[2:4]
    for damaged in (content[: end - 9] + bytes([content[end - 9] ^ 1]) + content[end - 8 :], content[:start] + content[end:]):
        ((_, (reason, lost, unit)),) = outcomes(damaged)
        assert reason.startswith(f"a page is missing or damaged at byte {start}: the sound from second ")
        assert (lost, unit) == (1, "recording")
    first = page_ends(content)[0]
    (_, good), (where, (reason, _, _)) = outcomes(content + content[:20] + b"\xff" + content[21:])
    assert (good, where) == (50_000, f"recording 1, byte {len(content) + first}")
    assert reason == "the first page of a recording is missing or damaged"


# MP3


def headless(mode: str, samples: int = 50_000) -> bytes:
    """Frames without the header that gives their number."""
    with soundfile.SoundFile(
        file := io.BytesIO(), "w", 16_000, 1, format="MP3", bitrate_mode=mode, compression_level=0.5
    ) as target:
        target.write(sound(samples)[:, 0])
    (one,) = mpeg.recordings(file.getvalue())
    assert one.promised == len(one.frames) == 89
    return file.getvalue()[one.frames[0][0] :]


HEARD = 89 * 576 - 529
"""Samples of 89 frames, without the decoder's delay."""


@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE", "VARIABLE"])
@pytest.mark.parametrize(
    "around", [lambda mp3: ID3 + mp3, lambda mp3: mp3 + ID3_AT_THE_END, lambda mp3: ID3 + mp3 + ID3_AT_THE_END]
)
def test_an_mp3_that_promises_nothing_is_read_to_its_end(mode: str, around: Callable[[bytes], bytes]) -> None:
    """libsndfile guesses the length from the size of the file and of the first frames, and reads no further."""
    content = around(headless(mode))
    ((position, samples),) = outcomes(content)
    assert position == "byte 0"
    assert samples in (HEARD, 89 * 576)
    if mode == "VARIABLE":
        assert len(decoded(content)) < 30_000, "as it would be"


def test_an_mp3_whose_length_is_guessed_rightly_stays_as_it_is() -> None:
    content = headless("CONSTANT")
    assert [row for _, row in audio().rows("x", content, 1000)] == [{"audio": content}]


def test_libsndfile_ignores_the_header_of_fraunhofer() -> None:
    for mode in ("CONSTANT", "VARIABLE"):
        content = headless(mode)
        (one,) = mpeg.recordings(content)
        header = content[:4] + bytes(32) + b"VBRI" + struct.pack(">HHHII", 1, 0, 75, len(content), 89)
        ((_, samples),) = outcomes(header.ljust(one.frames[0][1], b"\0") + content)
        assert samples in (HEARD, 90 * 576)


def test_frames_behind_those_that_a_header_promises_are_read() -> None:
    headed, more = encoded(sound(20_000), "MP3", rate=16_000), headless("VARIABLE")
    assert [said for _, said in outcomes(headed + more)] == [20_000, HEARD]
    assert [said for _, said in outcomes(headed + ID3_AT_THE_END + ID3 + more)] == [20_000, HEARD]
    assert [said for _, said in outcomes(headless("VARIABLE") * 2)] == [2 * 89 * 576 - 529]


def test_a_header_without_its_frames_is_reported() -> None:
    content = encoded(sound(20_000), "MP3", rate=16_000)
    (one,) = mpeg.recordings(content)
    (_, samples), (position, (reason, lost, unit)) = outcomes(content + content[: one.frames[0][0]])
    assert (samples, position, lost, unit) == (20_000, f"recording 1, byte {len(content)}", 1, "recording")
    assert reason


def test_bytes_that_are_no_frames_are_counted() -> None:
    content = headless("CONSTANT")
    (_, samples), (position, (reason, lost, unit)) = outcomes(content[:18_000] + b"no frame" * 100 + content[18_000:])
    assert samples == HEARD
    assert (position, lost, unit) == ("byte 0", 2, "frame")
    assert reason == "800 bytes are not complete frames of MPEG audio, the first at byte 18000"
    (_, samples), (_, (_, lost, _)) = outcomes(content[:-100])
    assert (samples, lost) == (HEARD - 576, 0), "the last frame, which is cut off"
    assert outcomes(content + bytes(999)) == [("byte 0", 89 * 576)] or outcomes(content + bytes(999)) == [("byte 0", HEARD)]


def test_frames_of_another_rate_are_another_recording() -> None:
    (one,) = mpeg.recordings(encoded(sound(20_000), "MP3"))
    eight = encoded(sound(20_000), "MP3")[one.frames[0][0] :]
    assert [said for _, said in outcomes(eight + headless("CONSTANT"))] == [len(one.frames) * 576 - 529, 89 * 576]


# One recording


def test_a_flac_says_how_far_it_can_be_read() -> None:
    content = encoded(sound(50_000), "FLAC")
    ((_, (reason, lost, unit)),) = outcomes(content[:40_000] + b"\xff" + content[40_001:])
    assert reason.endswith("of 50,000 samples can be read")
    count = int(reason.split("; ")[1].split()[0].replace(",", ""))
    assert 15_000 < count < 25_000
    assert (lost, unit) == (1, "recording")


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "PCM_U8"])
def test_kinds_of_numbers_are_the_same_sound(subtype: str) -> None:
    content = encoded(np.clip(sound(8000, channels=8), -0.9, 0.9), "WAV", subtype)
    ((_, row),) = audio().rows("x", content, 1000)
    seen, whole = (
        audio().units({"audio": one}, 1000, None).x for one in (row["audio"], encoded(sound(8000, channels=8), "WAV", "DOUBLE"))
    )
    assert np.abs(seen - whole).mean() < 0.3


def test_loud_and_tiny_files() -> None:
    loud, quiet = (audio().units({"audio": encoded(sound(8000) * by, "WAV", "DOUBLE")}, 1000, None).x for by in (50, 0.5))
    assert np.abs(loud - quiet).max() < 1e-3, "samples beyond 1 are scaled, not cut off"
    assert outcomes(encoded(sound(1))) == [("", ("a recording of 1 samples is shorter than one unit of 200", 1, "recording"))]
    assert outcomes(encoded(sound(0))) == [("", ("it has no samples", 1, "recording"))]
    for form in ("AIFF", "W64", "RF64", "CAF", "AU"):
        ((_, (reason, _, _)),) = outcomes(encoded(sound(), form))
        assert reason == f"a recording in the format {form}; WAV, FLAC, MP3 and Ogg are read"


@pytest.mark.parametrize(("form", "subtype"), KINDS)
def test_what_is_mixed_block_by_block_is_the_same(form: str, subtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with many channels, which even a small file may have."""
    content = encoded(sound(20_000, channels=2), form, subtype)
    whole = audio().units({"audio": content}, 1000, None).x
    monkeypatch.setattr(recording, "MIXED", 1000)
    assert np.abs(audio().units({"audio": content}, 1000, None).x - whole).max() < 1e-4
