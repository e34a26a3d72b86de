"""`foundray init`: what is found in files, and that the spec which follows reads them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import foundray
from foundray.cli import _run
from foundray.contract import Values
from foundray.data.files.files import find_files
from foundray.data.prepare.recipe import units_read
from foundray.data.prepare.sources import BadRow, read_documents, read_rows
from foundray.errors import InputError
from foundray.proposing.kinds import sort
from foundray.proposing.machine import Machine, measure
from foundray.proposing.page import page
from foundray.proposing.proposal import Proposal, propose
from foundray.spec import Spec
from foundray.spec.filling import name_of
from foundray.spec.loading import parse_spec

LAPTOP = Machine(4, 0, 1e11, "4 cores")
SERVER = Machine(64, 8, 8e14, "8 x NVIDIA H100")
PROSE = "The ship left the harbour at dawn, and nobody on the quay waved; the café was still closed.\n\n"


def proposed(place: Path | str, machine: Machine = LAPTOP, minutes: float = 5) -> tuple[Spec, Proposal, str]:
    """The spec that is proposed, what it follows from, and its text."""
    found = propose(str(place), sort(str(place)), minutes, lambda: machine, lambda line: None)
    text = page("mine", str(place), found)
    return parse_spec(text, "proposed"), found, text


def readable(spec: Spec) -> list[int]:
    """How many documents or rows the spec reads in each source."""
    modality, counts = spec.data.modality.build(), []
    for source in spec.data.sources:
        if isinstance(modality, Values):
            files = find_files(source, modality.endings)
            rows = [row for file in files for row in read_rows(file, source, modality, units_read(spec))]
        else:
            rows = [row for file in find_files(source) for row in read_documents(file, source)]
        counts.append(sum(not isinstance(row, BadRow) for row in rows))
    return counts


def table(folder: Path, name: str, frame: pd.DataFrame) -> None:
    writer: Any = {".csv": frame.to_csv, ".parquet": frame.to_parquet, ".jsonl": frame.to_json}[Path(name).suffix]
    options: dict[str, Any] = {"orient": "records", "lines": True} if name.endswith("jsonl") else {"index": False}
    writer(folder / name, **options)


def test_text_in_a_folder(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text(PROSE * 100)
    spec, found, text = proposed(tmp_path)
    assert (spec.data.modality.kind, spec.data.tokenizer.kind, spec.objective.kind) == ("text", "char", "next_token")
    assert readable(spec) == [20]
    assert abs(found.choice.units - 20 * 100 * len(PROSE)) < 0.01 * found.choice.units
    assert "20 .txt" in text and "Latin 100 %" in text and "of about" in text


def test_more_text_gets_a_trained_vocabulary_and_a_larger_model(tmp_path: Path) -> None:
    words = np.random.default_rng(0).choice([f"word{number}" for number in range(3000)], 600_000)
    (tmp_path / "a.txt").write_text(" ".join(words))
    small, _, _ = proposed(tmp_path)
    large, _, _ = proposed(tmp_path, SERVER, 60)
    assert (small.data.tokenizer.kind, small.data.tokenizer.vocab_size) == ("bpe", 2048)
    assert large.model.width > small.model.width and large.optimizer.lr < small.optimizer.lr
    assert large.scale.workers == (1, 8) and large.scale.resources == {"CPU": 1, "GPU": 1}
    assert large.train.micro_batches >= 8, "every GPU has a micro-batch"


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_the_field_that_holds_the_text_is_found(name: str, tmp_path: Path) -> None:
    rows = [{"id": number, "when": "2024-05-01 10:00:00", "story": PROSE.strip() * 3} for number in range(50)]
    table(tmp_path, name, pd.DataFrame(rows))
    spec, found, _ = proposed(tmp_path)
    assert spec.data.sources[0].field == "story" and spec.data.modality.kind == "text"
    assert readable(spec) == [50]
    assert abs(found.choice.units / (50 * 3 * len(PROSE.strip())) - 1) < 0.1


def test_several_formats_are_several_sources_by_their_amounts(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.txt").write_text(PROSE * 300)
    (tmp_path / "b.md").write_text(PROSE * 300)
    table(tmp_path, "c.jsonl", pd.DataFrame([{"text": PROSE * 2}] * 100))
    spec, _, _ = proposed(tmp_path)
    assert readable(spec) == [2, 100] or readable(spec) == [100, 2]
    weights = {source.format: source.weight for source in spec.data.sources}
    assert weights["text"] == pytest.approx(0.75, abs=0.03) and weights["jsonl"] == pytest.approx(0.25, abs=0.03)


def test_compressed_text_counts_as_what_it_holds(tmp_path: Path) -> None:
    words = np.random.default_rng(0).choice(PROSE.split(), 100_000)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(" ".join(words).encode()))
    _, found, _ = proposed(tmp_path)
    assert found.choice.units == pytest.approx(len(" ".join(words)), rel=0.2)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_numbers_over_time(name: str, tmp_path: Path) -> None:
    steps = np.arange(5000)
    table(
        tmp_path,
        name,
        pd.DataFrame({"date": "2024-05-01", "load": np.sin(steps / 9), "heat": np.cos(steps / 7) + 0.01 * steps}),
    )
    spec, found, text = proposed(tmp_path)
    assert spec.data.modality.kind == "series" and spec.objective.kind == "masked_patch"
    assert found.choice.units * spec.data.modality.build().shape.width == pytest.approx(10_000, rel=0.05)  # type: ignore[attr-defined]
    assert "2 channels" in text and "load, heat" in text
    assert readable(spec)[0] >= 20


@pytest.mark.parametrize(
    ("clock", "counter"),
    [
        ("time", np.arange(2000) * 0.01),
        ("unixTime", 1.7e9 + np.arange(2000) * 60 + np.arange(2000) % 7),
        ("sample", np.arange(2000) + 5),
    ],
)
def test_a_column_that_only_counts_up_is_left_out(clock: str, counter: np.ndarray, tmp_path: Path) -> None:
    frame = pd.DataFrame({clock: counter, "load": np.sin(counter), "meter": np.cumsum(np.random.default_rng(0).random(2000))})
    table(tmp_path, "a.csv", frame)
    spec, found, text = proposed(tmp_path)
    assert spec.data.modality.build().columns == ["load", "meter"]  # type: ignore[attr-defined]
    assert f"left out, since it only counts up: {clock}" in text and "2 channels" in found.choice.found[0]
    assert readable(spec)[0] >= 8
    table(tmp_path, "b.csv", frame.rename(columns={"load": "heat"}))
    spec, _, text = proposed(tmp_path)
    assert spec.data.modality.build().columns == []  # type: ignore[attr-defined]
    assert f"without what only counts up: {clock}" in text, "files differ, so that no list of columns suits them all"
    assert readable(spec)[0] >= 16


def test_cases_of_series_and_typescript_have_the_same_ending(tmp_path: Path) -> None:
    values = ",".join(str(number % 7) for number in range(64))
    (tmp_path / "a.ts").write_text("@problemName x\n@classLabel true a b\n@data\n" + f"{values}:a\n{values}:b\n" * 40)
    spec, _, _ = proposed(tmp_path)
    assert spec.data.modality.kind == "series" and readable(spec)[0] == 80
    (tmp_path / "a.ts").write_text("export const answer: number = 42;\n" * 200)
    assert proposed(tmp_path)[0].data.modality.kind == "text"


def test_pictures_in_folders(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in ("cats", "dogs"):
        (tmp_path / label).mkdir()
        for number in range(10):
            Image.fromarray(rng.integers(0, 255, (70, 90, 3), np.uint8)).save(tmp_path / label / f"{number}.jpg")
    (tmp_path / "notes.txt").write_text(PROSE)
    spec, found, text = proposed(tmp_path)
    assert dict(spec.data.modality) | spec.data.modality.model_extra == {"kind": "image", "size": 64, "patch": 8, "channels": 3}
    assert spec.model.context == 64, "the grid of patches"
    assert "2 folders, which may be labels: cats, dogs" in text and "1 .txt" in found.left_out
    assert readable(spec) == [20]
    assert proposed(tmp_path, SERVER)[0].model.context == 64, "pictures are not enlarged"


def test_grey_pictures_in_an_archive(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(30):
            content = io.BytesIO()
            Image.fromarray(np.full((28, 28), number, np.uint8)).save(content, "PNG")
            (header := tarfile.TarInfo(f"{number}.png")).size = content.tell()
            content.seek(0)
            archive.addfile(header, content)
    spec, _, _ = proposed(tmp_path)
    assert spec.data.modality.model_extra == {"size": 28, "patch": 4, "channels": 1}
    assert readable(spec) == [30]


def test_recordings(tmp_path: Path) -> None:
    for number in range(12):
        with wave.open(str(tmp_path / f"{number}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(np.random.default_rng(number).integers(-9999, 9999, 16_000, np.int16).tobytes())
    spec, found, text = proposed(tmp_path)
    assert spec.data.modality.model_extra == {"rate": 8000, "bins": 40, "stack": 2}
    assert (spec.objective.kind, spec.model.context) == ("next_frame", 100), "two seconds, as the recordings"
    assert found.choice.units == pytest.approx(12 * 2 / 0.02, rel=0.05) and "8,000 Hz" in text
    assert readable(spec)[0] >= 12


def test_genomes_and_proteins(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def sequence(letters: str) -> str:
        return ">one\n" + "\n".join("".join(rng.choice(list(letters), 60)) for _ in range(500))

    (tmp_path / "a.fa").write_text(sequence("acgt"))
    spec, _, _ = proposed(tmp_path)
    assert spec.data.modality.kind == "dna" and spec.model.rope_theta == 100 and readable(spec) == [1]
    (tmp_path / "a.fa").write_text(
        ">one\n" + "\n".join("".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 60)) for _ in range(500))
    )
    with pytest.raises(InputError, match=r"'.' is not a nucleotide .*; learn from sequences of amino acids as plain text"):
        proposed(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no file that can be learned from"),
        ({"a.zip": b"PK"}, r"no file that can be learned from; there are: 1 \.zip"),
        ({"a.zip": b"PK" * 90_000, "LICENSE.txt": b"free"}, r"kinds that are not read \(1 \.zip\): unpack or convert it first"),
        ({"a.txt": b"\xff\xfe\x00" * 900}, "no text can be read: .*UTF-"),
        ({"a.txt": b"a few words"}, "about 1. tokens, which is too little"),
        ({"a.npz": b"PK" * 100}, "start from `foundray init --example control`"),
        ({"a.csv": b"name,when\nx,y\n" * 300}, "no column or field of its files holds text"),
        ({"a.png": b"none" * 300}, "none of 1 picture can be read"),
    ],
)
def test_what_is_refused(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        proposed(tmp_path)


def test_sizes_follow_the_time_and_the_data(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(map(chr, np.random.default_rng(0).integers(97, 123, 300_000))))
    short, long = (proposed(tmp_path, minutes=minutes)[1].sizes for minutes in (0.5, 20))
    assert short.parameters < long.parameters <= 8.5 * 300_000 and short.tokens < long.tokens
    assert short.seconds == pytest.approx(30, rel=0.3) and long.seconds == pytest.approx(1200, rel=0.3)
    assert long.epochs <= 33
    (tmp_path / "a.txt").write_text("a b c d e f " * 150)
    tiny = proposed(tmp_path, minutes=600)[1].sizes
    assert tiny.width == 64 and tiny.context == 16, "data for a few samples"


def test_this_machine_is_measured() -> None:
    found = measure()
    assert 1e8 < found.flops / found.cores < 1e15 and found.cores >= 1


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("data/novels", "novels"), ("data/novels/*.txt", "novels"), ("a/b c.txt.gz", "b-c"), ("s3://bucket/logs/2024/", "2024"),
        ("data", "mine"), ("./x/**/*.jsonl", "x"), ("Prepared", "mine"), ("v1.2.tar", "v1"),
    ],
)  # fmt: skip
def test_a_name_from_the_place(place: str, name: str) -> None:
    assert name_of(place) == name


def test_nothing_is_asked_and_nothing_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text(PROSE * 100)
    assert _run(["init", "--minutes", "0.2", "--json"]) == 0
    first, *between, facts = capsys.readouterr().out.splitlines()
    assert any(line.endswith(" here if nothing else runs") for line in between)
    assert first == "looking at data" and json.loads(facts)["spec"] == "mine.yaml"
    written = (tmp_path / "mine.yaml").read_text()
    assert " if nothing else runs;" in written
    assert _run(["init"]) == 2
    assert "mine.yaml is there already, and init overwrites nothing: give another file by --out" in capsys.readouterr().err
    assert (tmp_path / "mine.yaml").read_text() == written
    for wrong, message in {
        "none": "none does not exist",
        ".": "holds this folder, in which the spec and runs/ will be",
        "data --out none/x.yaml": "there is no folder none",
        "data --minutes 0": "--minutes 0: it must be a number",
        "data --example x": "exclude each other",
    }.items():  # fmt: skip
        assert _run(["init", *wrong.split()]) == 2
        assert message in capsys.readouterr().err


def test_from_an_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    written = foundray.init(example="genome", report=lines.append)
    assert written.spec == Path("genome.yaml") and "`foundray fetch genome`" in lines[-1]
    assert parse_spec(written.spec.read_text(), "it").name == "genome"
    foundray.init(example="control", out="x.yaml", report=lines.append)
    assert "generate.py" in lines[-1] and "generate.py" in Path("x.yaml").read_text()
    with pytest.raises(InputError, match=r"no example 'genom' \(did you mean 'genome'\?\)"):
        foundray.init(example="genom")
    with pytest.raises(InputError, match="has no spec: `make demo`"):
        foundray.init(example="after")
