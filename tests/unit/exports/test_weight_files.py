"""Weights that are too large for one file are in several, which stock classes and Foundray read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.unit.exports.models import KINDS, exported
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

import foundray
from foundray.errors import InputError
from foundray.exports.stock import WEIGHTS, weight_files

SIZE = "40KB"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("stock", "writing"):
        monkeypatch.setattr(f"foundray.exports.{module}.FILE_SIZE", SIZE)


@pytest.mark.parametrize(
    ("kind", "reader"), [("llama", AutoModelForCausalLM), ("granite", AutoModelForCausalLM), ("masked", AutoModelForMaskedLM)]
)
def test_stock_classes_read_several_files(
    kind: str, reader: type[PreTrainedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out, made = exported(tmp_path / "several", kind)
    assert len(made.files_sha256) > 1 and made.file_sha256 is None
    assert sorted(made.files_sha256) == [file.name for file in weight_files(out)]
    monkeypatch.setattr("foundray.exports.stock.FILE_SIZE", "5GB")
    _, whole, one = exported(tmp_path / "one", kind)
    assert one.files_sha256 == {WEIGHTS: one.file_sha256}
    several, alone = (reader.from_pretrained(folder).state_dict() for folder in (out, whole))
    assert several.keys() == alone.keys() and all(torch.equal(tensor, alone[name]) for name, tensor in several.items())
    text = (out / "README.md").read_text()
    assert all(sha in text for sha in made.files_sha256.values())


def test_our_own_form_is_read_from_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "own", {"model__norm": "ln"})
    run, out, made = exported(tmp_path, "own")
    assert made.stock_class is None and len(made.files_sha256) > 1
    model = foundray.load(str(out)).encoder.model
    assert all(torch.equal(tensor, run.model.state_dict()[name]) for name, tensor in model.state_dict().items())
    (out / sorted(made.files_sha256)[0]).write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"model-00001-of-.* is damaged"):
        foundray.load(str(out))
