"""Each modality on good and bad files, and on rows."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow
from tests.unit.files import archive, rows

from foundray.contract import Units, UnitShape, Unreadable, load_modality
from foundray.data.files.files import find_files
from foundray.data.prepare.sources import BadRow, Document, read_documents
from foundray.errors import InputError
from foundray.spec import SourceConfig
from foundray.testing.specs import make_spec

SEVEN = UnitShape(classes=7)


def documents(path: Path, **fields: Any) -> list[str]:
    """Rows of a source with one file; bad ones as `position: reason`."""
    source = SourceConfig(path=str(path), **fields)
    found = [row for file in find_files(source) for row in read_documents(file, source)]
    return [row.text if isinstance(row, Document) else f"{row.position}: {row.reason}" for row in found]


def modality(kind: str, **options: Any) -> Any:
    return load_modality(kind, options)


def picture(mode: str = "L", size: tuple[int, int] = (8, 8), form: str = "png") -> bytes:
    channels = () if mode == "L" else (len(mode),)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], *channels)).astype(np.uint8)
    Pillow.fromarray(pixels, mode=None).save(file := io.BytesIO(), form)
    return file.getvalue()


# Text


def test_csv_rows_and_ragged_ones(tmp_path: Path) -> None:
    (path := tmp_path / "a.csv").write_text('id,text\n1,"one, and\nmore"\n2\n3,three,3\n4,\n5,five\n')
    assert documents(path, format="csv") == [
        "one, and\nmore", "line 4: 1 fields under a header of 2", "line 5: 3 fields under a header of 2", "line 6: empty",
        "five",
    ]  # fmt: skip
    assert documents(path, format="csv", field="body") == ["line 1: no column 'body'; there are: id, text"]


def test_code_is_found_by_ending(tmp_path: Path) -> None:
    for name in ("a.py", "b.rs", "c.md", "d.PY"):
        (tmp_path / name).write_text(name)
    assert documents(tmp_path, format="code") == ["a.py", "b.rs", "d.PY"]


def test_fasta_sequences_and_bad_letters(tmp_path: Path) -> None:
    content = b">one the first\nacgt\nRYN\n>two\nAC!T\nGG\n>three\n>four\nTTU\n"
    (tmp_path / "g.fna.gz").write_bytes(gzip.compress(content))
    assert documents(tmp_path / "g.fna.gz", format="fasta") == [
        "ACGTNNN", "line 5: '!' is not a nucleotide (sequence two)", "sequence three: empty", "TTT",
    ]  # fmt: skip
    letters = bytes(np.random.default_rng(0).choice(list(b"ACGT"), 50_000).astype(np.uint8))
    (tmp_path / "broken.fna.gz").write_bytes(gzip.compress(b">x\n" + letters)[:-4000])
    assert "the compressed stream is broken" in documents(tmp_path / "broken.fna.gz", format="fasta")[-1]


def test_texts_of_a_treebank(tmp_path: Path) -> None:
    lines = ["# newdoc id = a", "# text = One.", "1\tOne\t_", "", "# text = Two.", "# newdoc id = b", "# text = Three."]
    (path := tmp_path / "t.conllu").write_text("\n".join(lines))
    assert documents(path, format="conllu") == ["One.\nTwo.", "Three."]


def test_archives_are_read_and_cannot_lead_out(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", {"1.txt": b"one", "../2.txt": b"two", "/3.txt": b"x", "4.json": b'{"text": "four"}'})
    assert documents(path, format="webdataset") == [
        "one", "../2.txt: its name points outside the archive", "/3.txt: its name points outside the archive", "four",
        "link.txt: not a regular file",
    ]  # fmt: skip
    path.write_bytes(path.read_bytes()[:700])
    assert documents(path, format="webdataset")[-1].startswith("end: the archive is broken")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar"]


# Nucleotides


def test_the_other_strand() -> None:
    dna = modality("dna", reverse_complement=1.0)
    ids = {letter: 2 + index for index, letter in enumerate("ACGNT")}  # after the opening and the unknown token
    x = np.array([0, *(ids[letter] for letter in "AACGN")])
    other = dna.augment(Units(x, None, SEVEN), np.random.default_rng(0))
    assert other.x.tolist() == [0, *(ids[letter] for letter in "NCGTT")]
    assert dna.augment(Units(other.x[1:], None, SEVEN), np.random.default_rng(0)).x.tolist() == x[1:].tolist()
    several = Units(x, np.array([0, 0, 1, 1, 1, 1]), SEVEN)
    assert dna.augment(several, np.random.default_rng(0)) is several
    half = modality("dna")
    turned = [half.augment(Units(x, None, SEVEN), np.random.default_rng(seed)).x.tolist() != x.tolist() for seed in range(200)]
    assert 70 < sum(turned) < 130


# Images


def test_patches_are_the_image(tmp_path: Path) -> None:
    image = modality("image", size=8, patch=4, channels=3)
    units = image.units({"image": picture("RGB")}, 4, None)
    pixels = np.asarray(Pillow.open(io.BytesIO(picture("RGB"))), np.float32) / 127.5 - 1
    assert units.x.shape == (4, image.shape.width) == (4, 48)
    assert np.array_equal(units.x[1].reshape(4, 4, 3), pixels[:4, 4:])
    assert np.array_equal(units.x[2].reshape(4, 4, 3), pixels[4:, :4])


def test_images_of_all_sizes_and_modes_become_one_shape(tmp_path: Path) -> None:
    kinds = [("L", (8, 8), "png"), ("RGB", (31, 9), "jpeg"), ("RGBA", (5, 16), "png"), ("RGB", (3, 3), "webp")]
    for index, (mode, size, form) in enumerate([*kinds, ("L", (8, 20), "gif")]):
        (tmp_path / f"{index}.{form}").write_bytes(picture(mode, size, form))
    for channels in (1, 3):
        image = modality("image", size=8, patch=2, channels=channels)
        found = rows(image, tmp_path)
        assert len(found) == 5
        assert {image.units(row, 16, None).x.shape for row in found} == {(16, 4 * channels)}


def test_images_that_cannot_be_decoded_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture("RGB", (64, 64), "jpeg")[:-500])
    (tmp_path / "b.png").write_bytes(b"not an image")
    (tmp_path / "c.png").write_bytes(picture())
    bad = [row for row in rows(modality("image", size=8, patch=4), tmp_path) if isinstance(row, BadRow)]
    assert [row.reason.split(":")[0] for row in bad] == ["not a whole image", "not an image of a known kind"]


def test_augmentation_follows_from_the_rng_alone() -> None:
    image = modality("image", size=8, patch=4, channels=1, flip=True, shift=0.25)
    row = {"image": picture()}
    plain = image.units(row, 4, None).x
    seen = [image.units(row, 4, np.random.default_rng(seed)).x for seed in range(20)]
    assert any(not np.array_equal(one, plain) for one in seen)
    assert np.array_equal(image.units(row, 4, np.random.default_rng(3)).x, seen[3])


def test_idx_files_and_lying_headers(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8)).astype(np.uint8)
    content = struct.pack(">HBBIII", 0, 8, 3, 3, 8, 8) + pixels.tobytes()
    (path := tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    image = modality("image", size=8, patch=8, channels=1)
    found = rows(image, path)
    assert np.allclose(image.units(found[1], 1, None).x.reshape(8, 8), pixels[1] / 127.5 - 1)
    path.write_bytes(gzip.compress(content[:-9]))
    *whole, bad = rows(image, path)
    assert whole == found[:2]
    assert (bad.reason, bad.lost) == ("its header promises 3 images of 8x8, and it holds 183 bytes", 1)
    path.write_bytes(gzip.compress(b"1234"))
    assert "shorter than its header" in rows(image, path)[0].reason


def test_images_in_archives(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", {"1.png": picture(), "1.cls": b"7", "../2.png": picture(), "3.png": b"broken"})
    found = rows(modality("image", size=8, patch=4), path, form="webdataset")
    reasons = [f"{row.position}: {row.reason}" if isinstance(row, BadRow) else "image" for row in found]
    assert reasons == [
        "image", "../2.png: its name points outside the archive", "3.png: not an image of a known kind",
        "link.txt: not a regular file", "end: left out: 1 member of other kinds (.cls)",
    ]  # fmt: skip


# Series


def test_series_are_cut_in_time_and_by_channel(tmp_path: Path) -> None:
    lines = ["date,a,b"] + [f"2020-01-{i:02d},{i},{100 - i}" for i in range(40)]
    (path := tmp_path / "s.csv").write_text("\n".join(lines))
    series = modality("series", patch=3)
    *found, note = rows(series, path)  # 4 patches of 3 are 12 steps; stretches are 24 long
    assert (note.position, note.reason, note.lost) == ("header", "taken: a, b; left out: date (not numbers)", 0)
    assert [(row["values"][0], len(row["values"])) for row in found] == [(0, 24), (100, 24), (24, 16), (76, 16)]
    units = series.units(found[0], 4, None)
    by_hand = (np.arange(12) - 5.5) / np.arange(12).std()
    assert np.allclose(units.x.flatten(), by_hand, atol=1e-6)
    table = {"a": np.arange(40.0), "b": 100 - np.arange(40.0)}
    pq.write_table(pa.table(table), tmp_path / "s.parquet")
    assert np.array_equal(rows(series, tmp_path / "s.parquet")[1]["values"], found[1]["values"])
    chosen = rows(modality("series", patch=3, columns=["b"]), path)
    assert [row["values"][0] for row in chosen] == [100, 76]


def test_gaps_and_ragged_rows_are_reported(tmp_path: Path) -> None:
    lines = ["a,b"] + [f"{i},{i}" for i in range(48)]
    lines[5] = "4,"
    lines[31] = "30"
    (path := tmp_path / "s.csv").write_text("\n".join(lines))
    series = modality("series", patch=3)
    outcomes = [f"{r.position}: {r.reason}" if isinstance(r, BadRow) else len(r["values"]) for r in rows(series, path)]
    gap = "a gap at step"
    assert outcomes == [24, f"step 0, channel 1: {gap} 4", f"step 24, channel 0: {gap} 30", f"step 24, channel 1: {gap} 30"]
    (path := tmp_path / "short.csv").write_text("a\n1\n2\n")
    assert [row.reason for row in rows(series, path)] == ["a series of 2 steps is shorter than a sample of 12"]
    assert "no column 'c'" in rows(modality("series", patch=3, columns=["c"]), tmp_path / "s.csv")[0].reason


def test_ts_cases(tmp_path: Path) -> None:
    head = "@problemName x\n@classLabel true a b\n@data\n"
    (path := tmp_path / "s.ts").write_text(head + "1,2,3,4:5,6,7,8:a\n2,3,4,5:6,7,8,9:b\n")
    assert [row["values"].tolist() for row in rows(modality("series", patch=1), path)] == [
        [1, 2, 3, 4], [5, 6, 7, 8], [2, 3, 4, 5], [6, 7, 8, 9],
    ]  # fmt: skip
    path.write_text(head + "1,2:5,6,7,8:a\n")
    (bad,) = rows(modality("series", patch=1), path)
    assert (bad.position, bad.reason) == ("line 4", "its dimensions have different lengths, from 2 to 4")


# All


def test_what_does_not_go_together_is_refused_with_what_does() -> None:
    image = {"kind": "image", "size": 16, "patch": 4}
    with pytest.raises(
        InputError,
        match=r"next_token cannot learn from the modality image; .*image: .*, masked_pixel, next_patch",
    ):
        make_spec(data__modality=image, model__context=16)
    with pytest.raises(InputError, match="the modality image is read from files, or webdataset, not from text"):
        prose = [{"path": "x", "format": "text"}]
        make_spec(data__modality=image, data__sources=prose, objective={"kind": "masked_pixel"}, model__context=16)
    with pytest.raises(InputError, match="image gives 4x4 units, so it must be 16"):
        files = [{"path": "x", "format": "files"}]
        make_spec(data__modality=image, data__sources=files, objective={"kind": "masked_pixel"}, model__context=32)
    with pytest.raises(InputError, match="patch 5 does not divide size 16"):
        make_spec(data__modality={**image, "patch": 5}, objective={"kind": "masked_pixel"})
    with pytest.raises(InputError, match="did you mean 'image'"):
        make_spec(data__modality={"kind": "imag"})


def test_a_reason_is_one_sentence() -> None:
    with pytest.raises(Unreadable, match="not an image of a known kind"):
        list(modality("image", size=8, patch=4).rows("x.png", b"?", 4))
