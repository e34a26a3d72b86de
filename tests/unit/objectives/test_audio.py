"""The audio modality on complete and damaged recordings; the log-mel spectrogram against a reference."""

from __future__ import annotations

import io
import lzma
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.unit.files import archive, rows
from tests.unit.sounds import RATE, audio, encoded, sound
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from foundray.data.prepare.sources import BadRow
from foundray.errors import InputError
from foundray.testing.specs import make_spec
from foundray_modalities.log_mel import FLOOR, log_mel
from foundray_modalities.recording import pieces, resampled


def tone(hertz: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


def outcomes(path: Path, length: int = 100) -> list[str]:
    found = rows(audio(), path, length)
    return [f"{row.position}: {row.reason}" if isinstance(row, BadRow) else "recording" for row in found]


@pytest.mark.parametrize(("rate", "bins", "window", "hop", "fft"), [(16_000, 80, 400, 160, 512), (8000, 23, 256, 100, 256)])
def test_log_mel_beside_that_of_transformers(rate: int, bins: int, window: int, hop: int, fft: int) -> None:
    wave = sound(5000)[:, 0]
    bank = mel_filter_bank(fft // 2 + 1, bins, 0, rate / 2, rate, mel_scale="htk")
    theirs = spectrogram(
        wave, window_function(window, "hann"), window, hop, fft, power=2.0, center=False, mel_filters=bank, mel_floor=FLOOR,
        log_mel="log",
    ).T  # fmt: skip
    ours = log_mel(wave, rate, bins, window, hop)
    assert ours.shape == theirs.shape == (1 + (5000 - window) // hop, bins)
    assert np.allclose(ours, theirs, atol=1e-4)
    assert not np.allclose(ours, log_mel(wave, rate, bins, window - 1, hop)[: len(ours)], atol=1e-2)


def test_units_are_stacked_normalised_frames() -> None:
    content = encoded(sound(4000))
    wave = soundfile.read(io.BytesIO(content))[0]
    frames = log_mel(wave, RATE, 20, 200, 80)[:48]
    assert len(log_mel(wave, RATE, 20, 200, 80)) == 48
    by_hand = (frames - frames.mean(0)) / np.sqrt(frames.var(0) + 1e-5)
    one, three = (audio(stack=stack).units({"audio": content}, 100, None) for stack in (1, 3))
    assert np.allclose(one.x, by_hand, atol=1e-5)
    assert np.array_equal(three.x, one.x.reshape(16, 60))
    assert audio(stack=3).shape.width == 60


def test_a_random_stretch_for_training_and_the_first_for_validation() -> None:
    modality, row = audio(stack=2), {"audio": encoded(sound(4000))}
    whole = modality.units(row, 24, None).x.reshape(48, 20)
    first = modality.units(row, 5, None)
    assert np.array_equal(first.x, whole[:10].reshape(5, 40))
    starts = set()
    for seed in range(30):
        cut = modality.units(row, 5, np.random.default_rng(seed)).x.reshape(10, 20)
        (start,) = [i for i in range(39) if np.array_equal(whole[i : i + 10], cut)]
        starts.add(start)
    assert len(starts) > 10
    assert len(modality.units(row, 100, np.random.default_rng(0))) == 24, "a short recording is a short sample"


@pytest.mark.parametrize(
    ("form", "subtype"), [("WAV", "FLOAT"), ("FLAC", "PCM_24"), ("MP3", None), ("OGG", "VORBIS"), ("OGG", "OPUS")]
)
def test_kinds_rates_and_channels_come_to_the_same(form: str, subtype: str | None) -> None:
    """A tone of 1 kHz is loudest in the bin around it, whatever its encoding."""
    stereo = np.stack([tone(1000, 48_000), np.zeros(48_000)], 1)
    units = audio().units({"audio": encoded(stereo, form, subtype, 48_000)}, 200, None)
    assert len(units) == pytest.approx(98, abs=3)
    with soundfile.SoundFile(io.BytesIO(encoded(stereo, form, subtype, 48_000))) as file:
        wave = resampled(next(pieces(file, 48_000))[1], 48_000, RATE)
    assert np.abs(wave[1000:-1000]).max() == pytest.approx(0.25, abs=0.02)
    edges = 700 * (10 ** (np.linspace(0, np.log10(1 + 4000 / 700), 22)) - 1)
    loudest = log_mel(wave, RATE, 20, 200, 80).mean(0).argmax()
    assert edges[loudest] < 1000 < edges[loudest + 2]


def test_resampling_keeps_out_what_the_new_rate_cannot_hold() -> None:
    assert np.abs(resampled(tone(7000, 48_000), 48_000, RATE)[500:-500]).max() < 0.01
    assert np.abs(resampled(tone(1000, 11_025), 11_025, RATE)[500:-500] - tone(1000, RATE)[500:-500]).max() < 0.01


def test_long_recordings_are_cut_and_nothing_is_lost(tmp_path: Path) -> None:
    samples = sound(9000, channels=2)
    (path := tmp_path / "long.wav").write_bytes(encoded(samples))
    modality = audio()
    found = rows(modality, path, length=10)  # twice ten units are 200 + 19 * 80 samples
    whole = soundfile.read(path)[0].mean(1)
    parts = [soundfile.read(io.BytesIO(row["audio"]))[0] for row in found]
    assert [len(part) for part in parts] == [1720] * 5 + [400]
    assert np.abs(np.concatenate(parts) - whole).max() <= 0.5 / 2**15 + 1e-9
    assert len(modality.units(found[0], 10, None)) == 10
    path.write_bytes(encoded(sound(50_000), rate=100_003))  # a rate that FLAC cannot encode
    assert [len(modality.units(row, 10, None)) for row in rows(modality, path, length=10)] == [10, 10, 5]
    path.write_bytes(encoded(samples[:1720]))
    assert [row["audio"] for row in rows(modality, path, length=10)] == [path.read_bytes()], "others stay as they are"


def test_incomplete_recordings_are_reported(tmp_path: Path) -> None:
    wav, flac, mp3 = (encoded(sound(8000), form) for form in ("WAV", "FLAC", "MP3"))
    ogg = encoded(sound(32_000), "OGG")
    nan = sound(4000)
    nan[1234] = np.nan
    files = {
        "a.wav": (wav[:-6001], "byte 0: its header promises 16000 bytes of samples, and it has 9999"),
        "b.wav": (wav[:40] + struct.pack("<I", 2**32 - 1) + wav[44:], "promises 4294967295 bytes of samples"),
        "c.wav": (wav[:24] + struct.pack("<I", 3) + wav[28:], "byte 0: its header says 3 samples per second"),
        "d.wav": (encoded(sound(0)), "byte 0: it has no samples"),
        "e.wav": (encoded(nan, subtype="FLOAT"), "byte 0: sample 1234 is not a finite number"),
        "f.wav": (b"", "byte 0: empty"),
        "g.wav": (encoded(sound(150)), "byte 0: a recording of 150 samples is shorter than one unit of 200"),
        "h.wav": (encoded(sound(), "AIFF"), "byte 0: a recording in the format AIFF; WAV, FLAC, MP3 and Ogg are read"),
        "i.flac": (flac[:-5000], "byte 0: not a whole recording of a known kind: flac decoder lost sync"),
        "j.mp3": (b"This is no music.\n" * 100, "byte 0: not a whole recording of a known kind: Format not recognised"),
        "k.mp3": (mp3[:-800], "byte 0: its header promises 8000 samples, and it has "),
        "l.ogg": (ogg[:-1], "byte 0: its last page is missing or incomplete"),
        "l2.ogg": (ogg[:9000], "byte 0: its last page is missing or incomplete"),
        "l3.flac": (flac[:21] + b"\xf0" + bytes(4) + flac[26:], "byte 0: its header does not say how many samples there are"),
        "m.wav": (wav[:12] + b"LIST" + struct.pack("<I", 3) + b"abc\0" + wav[12:], "recording"),
    }
    for name, (content, said) in files.items():
        (tmp_path / name).write_bytes(content)
        (found,) = outcomes(tmp_path / name)
        assert said in found, name


def test_the_beginning_of_a_long_recording_that_breaks_off_is_used(tmp_path: Path) -> None:
    (path := tmp_path / "a.flac").write_bytes(encoded(sound(90_000), "FLAC")[:-20_000])
    found = outcomes(path, length=10)
    assert found[0] == "recording"
    assert "lost sync" in found[-1]


def test_recordings_in_an_archive_packed_with_xz(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", {"x/1.wav": encoded(sound()), "x/1.txt": b"one", "x/2.wav": b"RIFF"})
    (folder := tmp_path / "packed").mkdir()
    (folder / "recordings.tar.xz").write_bytes(lzma.compress(path.read_bytes()))
    found = rows(audio(), folder, 100, "webdataset")
    outcomes = ["recording", "x/2.wav", "link.txt", "end"]  # the text beside a recording is left out
    assert [row.position if isinstance(row, BadRow) else "recording" for row in found] == outcomes
    (folder / "recordings.tar.xz").write_bytes(lzma.compress(path.read_bytes())[:-200])
    assert "the archive is broken" in rows(audio(), folder, 100, "webdataset")[-1].reason


def test_options_that_cannot_be_are_refused_with_what_can() -> None:
    files = {"data__sources": [{"path": "x", "format": "files"}], "objective": {"kind": "next_frame"}}
    with pytest.raises(InputError, match=r"a window of 25.0 ms at 8000 Hz resolves \d\d bins, not 120"):
        make_spec(data__modality={"kind": "audio", "rate": 8000, "bins": 120}, **files)
    with pytest.raises(InputError, match="must be two samples or more"):
        make_spec(data__modality={"kind": "audio", "hop": 0.05}, **files)
    with pytest.raises(InputError, match=r"audio: .*masked_frame, next_frame"):
        make_spec(data__modality={"kind": "audio"}, **(files | {"objective": {"kind": "next_token"}}))
