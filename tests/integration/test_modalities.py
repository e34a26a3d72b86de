"""Data other than text on real Ray: from files to a trained model, with the same bits for one and two workers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.command import foundray_here
from tests.integration.pictures import images

import foundray as api
from foundray.runs.facts import Facts
from foundray.runs.reconstructions import read_reconstructions
from foundray.storage import Store
from foundray.testing.specs import small_spec, write_spec

pytestmark = pytest.mark.usefixtures("own_ray")


def recordings(folder: Path) -> Path:
    """Tones of different pitch in noise, one second each; one file's header promises more than the file has."""
    (made := folder / "recordings").mkdir()
    seconds = np.arange(8000) / 8000
    for number in range(60):
        rng = np.random.default_rng(number)
        wave = 0.3 * np.sin(2 * np.pi * (200 + 50 * number) * seconds) + rng.normal(0, 0.01, len(seconds))
        soundfile.write(file := io.BytesIO(), wave, 8000, format="WAV")
        (made / f"{number:03d}.wav").write_bytes(file.getvalue()[: -400 if number == 7 else None])
    return made


def genome(folder: Path) -> Path:
    """A repeat with mutations, so that there is something to learn."""
    rng = np.random.default_rng(0)
    unit = rng.choice(list("ACGT"), 50)
    letters = np.tile(unit, 600)
    letters[rng.random(len(letters)) < 0.02] = "N"
    (path := folder / "genome.fna").write_text(">one\n" + "".join(letters))
    return path


KINDS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "masked_pixel": (
        images,
        {"data__modality": {"kind": "image", "size": 16, "patch": 4, "channels": 1}, "model__context": 16},
        "not a whole image",
    ),
    "contrastive": (
        recordings,
        {"data__modality": {"kind": "audio", "rate": 8000, "bins": 20}, "model__context": 16},
        "its header promises 16000 bytes of samples",
    ),
    "masked_token": (genome, {"data__modality": {"kind": "dna"}}, ""),
}
"""By objective: what makes the files, the spec, and for values the reason why the file 007 is lost; tokens are whole."""


def write_spec_of(kind: str, folder: Path) -> Path:
    make, changes, reason = KINDS[kind]
    source = [{"path": str(make(folder)), "format": "files" if reason else "fasta"}]
    train = {"steps": 40, "micro_batches": 4, "micro_batch_size": 4, "evaluate_every": 20, "checkpoint_every": 20}
    spec = small_spec(Path("x"), folder / "runs", objective={"kind": kind}, data__sources=source, **changes, train=train)
    spec["data"].pop("tokenizer")
    return write_spec(folder, spec)


def train(path: Path, workers: int = 1) -> Facts:
    return api.train(path, {"name": f"of{workers}", "scale.workers": workers, "scale.resources.CPU": 0.5})


@pytest.fixture(scope="module")
def pixels(own_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Spec of a run on images, which is done on one worker."""
    train(path := write_spec_of("masked_pixel", tmp_path_factory.mktemp("pixels")))
    return path


def test_from_images_to_a_model(pixels: Path) -> None:
    check("masked_pixel", pixels)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "masked_pixel"])
def test_from_files_to_a_model(kind: str, tmp_path: Path) -> None:
    train(path := write_spec_of(kind, tmp_path))
    check(kind, path)


def check(kind: str, path: Path) -> None:
    """The run has learned, and the file that is cut off is accounted for."""
    tmp_path, reason = path.parent, KINDS[kind][2]
    losses = [event["val_loss"] for event in api_events(tmp_path / "runs" / "of1") if event["event"] == "evaluated"]
    assert losses[-1] < losses[0], "it learns"
    kept = [len(read_reconstructions(Store.at(tmp_path / "runs" / "of1"), step)) for step in (20, 40)]
    assert kept == ([3, 3] if kind == "masked_pixel" else [0, 0])
    curves = EventAccumulator(str(tmp_path / "runs" / "of1" / "tensorboard"))
    curves.Reload()
    assert [one.step for tag in curves.Tags()["images"] for one in curves.Images(tag)] == [20, 40] * kept[0]
    assert foundray_here("audit", tmp_path / "runs" / "of1", "--json").facts["clean"]
    assert all(api.audit(tmp_path / "runs" / "of1").clean for _ in range(2)), "calling it does not take it away"
    if reason:
        (line,) = (next((tmp_path / "runs" / "prepared").iterdir()) / "quarantine.jsonl").read_text().splitlines()
        assert "007." in line and reason in line
    refused = foundray_here("sample", tmp_path / "runs" / "of1", "--prompt", "x")
    assert f"{kind} does not predict what comes next" in refused.refusal
    assert ("values per unit" in foundray_here("train", path, "--dry-run").out) == bool(reason)


@pytest.mark.thorough
def test_two_workers_give_the_same_bits(pixels: Path) -> None:
    one, two = api.status(pixels.parent / "runs" / "of1"), train(pixels, 2)
    assert (one.weights_sha256, one.val_loss) == (two.weights_sha256, two.val_loss)
    assert foundray_here("audit", two.run, "--json").facts["clean"]


def api_events(run: Path) -> list[dict[str, Any]]:
    import json

    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
