"""`foundray plan` as a user runs it, on the examples' data."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
from tests.command import Done, foundray_here
from tests.repository import REPOSITORY

from foundray.data.tokenizers.tokenizer import train_bpe
from foundray.testing.specs import small_spec, write_spec

DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the examples find their data."""
    folder = tmp_path_factory.mktemp("examples")
    if not DATA.exists():
        pytest.skip(f"the examples' data is not in {DATA}")
    for name in ("wolof", "shakespeare", "electricity-transformer"):
        foundray_here("fetch", name, "--mirror", DATA, "--to", folder / "data", cwd=REPOSITORY)
    return folder


@pytest.fixture(scope="module")
def english(data: Path) -> Path:
    """An English byte-pair tokenizer: plays, and the prose and comments of Python's library."""
    library = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:60]
    texts = [(data / "data/shakespeare/input.txt").read_text(), *(file.read_text(errors="ignore") for file in library)]
    path = data / "english.json"
    path.write_text(train_bpe(texts, 8192).to_json())
    return path


def plan(data: Path, example: str, *arguments: object) -> Done:
    return foundray_here("plan", REPOSITORY / f"examples/{example}/spec.yaml", *arguments, "--json", cwd=data)


def test_a_language_that_a_tokenizer_does_not_cover(data: Path, english: Path) -> None:
    done = plan(data, "wolof", "--tokenizer", english, "--gpus", "H100:8", "--price", "H100=2.5")
    facts = done.facts
    named = facts["coverage"]["named"][0]
    assert facts["verdict"] == "pre-train" and named["verdict"] == "uncovered"
    assert named["gap"] > 1.5 and named["tokens_a_word"] > 1.5 * named["own"]["tokens_a_word"]
    said = " ".join(done.out.split())
    assert f"english.json needs {named['tokens_a_word']:.2f} tokens per word; one trained on this data" in said
    assert f"{named['gap']:.1f} times as many steps for the same text" in said and "is not covered" in said
    assert facts["machines"][0]["cost"] > 0


def test_a_language_that_it_covers(data: Path, english: Path) -> None:
    facts = plan(data, "shakespeare", "--tokenizer", english, "--gpus", "H100").facts
    assert facts["coverage"]["named"][0]["verdict"] == "covered" and facts["verdict"] == "fine-tune"


def test_a_billion_parameters_for_a_megabyte(data: Path) -> None:
    size = ["model.width=2048", "model.depth=20", "model.heads=16", "model.context=1024", "train.micro_batches=64"]
    done = plan(data, "shakespeare", *(part for field in size for part in ("--set", field)))
    facts, said = done.facts, " ".join(done.out.split())
    budget = facts["budget"]
    assert facts["verdict"] == "fine-tune" and 0.9e9 < budget["parameters"] < 1.1e9
    assert budget["epochs"] == pytest.approx(2000 * 64 * 8 * 1024 / (1_115_395 * 0.9))
    assert budget["tokens_a_parameter"] < 0.02
    assert "1,045 epochs" in said and "0.0163 per parameter, and about 20 are best" in said
    assert "enough for 50,193 parameters" in said
    by_name = {machine["name"]: machine["fits"] for machine in facts["machines"]}
    assert (by_name["RTX 4090"], by_name["H100"]) == ("too large", "fits")
    again = plan(data, "shakespeare", "--because", "research", "--gpus", "A100")
    assert again.facts["verdict"] == "pre-train" and "the data was read before" in again.out


def test_values(data: Path) -> None:
    done = plan(data, "electricity-transformer", "--gpus", "L4")
    assert done.facts["data"]["counts"]["documents"] == 119 and done.facts["coverage"] is None
    assert "Chronos" in done.out and done.facts["verdict"] == "fine-tune"


@pytest.mark.thorough
def test_many_units_prepared_data_and_a_run(own_ray: None, prose: Path, tmp_path: Path) -> None:
    """Two sources are two units, read by Ray Data; what a run has found out is then exact, or measured."""
    changes = {"train__steps": 4, "data__tokenizer": {"kind": "bpe", "vocab_size": 300}}
    spec = small_spec(prose, tmp_path / "runs", **changes)
    spec["data"]["sources"] = [{"path": str(prose), "weight": 3.0}, {"path": str(prose)}]
    path = write_spec(tmp_path, spec)
    before = foundray_here("plan", path, "--gpus", "H100", "--json").facts
    assert [source["tokens_from"] for source in before["data"]["sources"]] == ["sample", "sample"]
    assert before["data"]["documents"]["items"] == 0.5 and before["measured"] is None
    assert [source["seen"] for source in before["budget"]["sources"]] == [4 * 320 * 0.75, 4 * 320 * 0.25]
    tokens = foundray_here("train", path, "--json").facts["tokens"]
    after = foundray_here("plan", path, "--gpus", "H100", "--json").facts
    assert after["data"]["prepared"] and after["measured"]["tokens_per_s"] > 0
    assert after["budget"]["tokens"] == tokens
    assert after["data"]["counts"]["tokens"] == pytest.approx(before["data"]["counts"]["tokens"], rel=0.02)


def test_bad_input(spec: Path, tmp_path: Path) -> None:
    for arguments, said in (
        (["--tokenizer", tmp_path / "none.json"], "cannot be read"),
        (["--gpus", "H1000"], "did you mean H100?"),
        (["--sample", "much"], "such as 500MB or 1GB"),
        (["--set", "data.sources.0.path=none.txt"], "does not exist"),
    ):
        assert said in foundray_here("plan", spec, *arguments).refusal, arguments
    assert not (tmp_path / "runs").exists()
