"""Bad input: one clear sentence, exit status 2, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.command import foundray_here, foundray_in_turn

from foundray.testing.specs import small_spec, write_spec


def test_without_starting_ray(spec: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{broken")
    changes = (
        ("data.sources.0.path=none.txt", "the source none.txt does not exist"),
        ("model.widht=3", "model.widht is not a field (did you mean 'width'?)"),
        ("model.heads=3", "width 32 does not divide into 3 heads"),
        ("scale.workers=[3,1]", "the minimum comes first: [1, 3]"),
        ("storage=/proc/none", "/proc/none"),
        (f"storage={spec}/inside", "cannot be written"),
        ("storage=nonsense://x", "cannot be opened as storage"),
        (f"data.tokenizer={{kind: file, path: {tmp_path / 'tokenizer.json'}}}", "is not a tokenizer.json"),
    )
    cases: list[tuple[tuple[object, ...], str]] = [(("train", spec, "--set", change), said) for change, said in changes]
    cases += [(("resume", tmp_path), "is not a run's folder"), (("status", "none"), "is not a run's folder")]
    cases += [(("train", tmp_path / "none.yaml"), "cannot be read")]
    for (command, said), done in zip(cases, foundray_in_turn(*(command for command, _ in cases)), strict=True):
        assert said in done.refusal, command
        assert "starting Ray" not in done.out
    assert not (tmp_path / "runs" / "small").exists()
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("content", "change", "said"),
    [
        pytest.param(b"", "name=x", "is empty", marks=pytest.mark.thorough),  # as test_prepare.py's
        pytest.param(b"\x00\xff\xfe binary", "name=x", "not UTF-8", marks=pytest.mark.thorough),
        (b"one sample, at most", "name=x", "its 1 sample leaves none beside the validation split; add data, or lower"),
        (b"too short to fill one batch of ten samples", "name=x", "too few tokens for one batch"),
        (b"x" * 10_000, "scale.workers=[64,64]", "scale.workers asks for at least 64 workers"),
    ],
)
def test_after_ray_has_started(own_ray: None, content: bytes, change: str, said: str, tmp_path: Path) -> None:
    source = tmp_path / "source.txt"
    source.write_bytes(content)
    spec = write_spec(tmp_path, small_spec(source, tmp_path / "runs", data__tokenizer={"kind": "bytes"}))
    assert said in foundray_here("train", spec, "--set", change).refusal
    assert not (tmp_path / "runs" / "small").exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_full_disk(own_ray: None, prose: Path, tmp_path: Path, tiny_disk: Path) -> None:
    spec = write_spec(tmp_path, small_spec(prose, tiny_disk / "runs"))
    assert "the disk is full" in foundray_here("train", spec).refusal
    assert not list(tiny_disk.rglob("*.tmp"))
    assert not list(tiny_disk.rglob("*.parquet"))
