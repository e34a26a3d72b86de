"""`plan`: its formulas against numbers worked out by hand, and against measurements."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.unit.memory import allocated
from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as Engine

from foundray.data.tokenizers.tokenizer import Tokenizer, make_bytes, train_bpe
from foundray.errors import InputError
from foundray.host.gpu_memory import FULL
from foundray.model.flops import flops, parameters_of
from foundray.model.model import Batch, Model, initialise
from foundray.model.recomputing import Recompute
from foundray.planning import plan
from foundray.planning.budget import best_size, worth
from foundray.planning.cost import Assumptions, assume, checkpoints, estimates
from foundray.planning.coverage import coverage, fertility, load_named
from foundray.planning.gpus import fleets
from foundray.planning.reading import UNSPACED, WORD
from foundray.planning.seen import Seen
from foundray.planning.survey import survey
from foundray.planning.words import about, count, ratio
from foundray.runs.run import Run
from foundray.spec import Spec
from foundray.spec.loading import parse_spec
from foundray.testing.specs import small_spec
from foundray.training.footprint import footprint, of_layers
from foundray.training.step.trainer import Trainer
from foundray.wording.words import size

LLAMA_7B = {"width": 4096, "depth": 32, "heads": 32, "hidden": 11008, "context": 2048}


def make(source: Path = Path("x"), storage: Path = Path("y"), **changes: Any) -> Spec:
    return parse_spec(yaml.safe_dump(small_spec(source, storage, **changes)), "test")


def estimate(spec: Spec, gpus: str, classes: int = 32_000, price: str | None = None) -> Any:
    prices = [] if price is None else [price]
    machines = fleets(spec, [gpus], prices, 1e12 if gpus.startswith("CPU") else None)
    return estimates(spec, classes, flops(spec, classes, spec.train.steps), machines, Assumptions())[0]


# Compute


def test_llama_7b_takes_what_its_paper_says() -> None:
    """Touvron et al. 2023, table 15: 82,432 hours of an A100 for a trillion tokens, at an MFU between 0.4 and 0.5."""
    spec = make(model=LLAMA_7B, train={"steps": 100_000, "micro_batches": 1024, "micro_batch_size": 1})
    by_hand = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 32_000 * 4096
    assert parameters_of(spec, 32_000) == by_hand == 6_607_077_376
    tokens = 100_000 * 1024 * 2048
    taken = flops(spec, 32_000, spec.train.steps)
    assert taken == tokens * (6 * by_hand + 12 * 32 * 4096 * 2048)
    hours = taken * (1e12 / tokens) / (312e12 * 0.4) / 3600
    assert 0.4 < 0.4 * hours / 82_432 < 0.5
    found = estimate(spec, "A100:1024", price="A100=2")
    assert found.seconds == pytest.approx(taken / (1024 * 312e12 * 0.4))
    assert found.cost == pytest.approx(found.seconds / 3600 * 1024 * 2)


def test_more_gpus_than_micro_batches_are_of_no_use() -> None:
    spec = make(model=LLAMA_7B, train={"steps": 10, "micro_batches": 8, "micro_batch_size": 1})
    eight, twelve, sixteen, five = (estimate(spec, f"H100:{number}") for number in (8, 12, 16, 5))
    assert eight.seconds == twelve.seconds == sixteen.seconds
    assert (eight.idle, twelve.idle, sixteen.idle) == (0, 4, 8)
    assert five.seconds == pytest.approx(2 * eight.seconds)  # two rounds, as with four


def test_a_small_model_takes_the_time_that_kernels_take_to_start() -> None:
    small, large = estimate(make(), "H100", 257), estimate(make(model=LLAMA_7B), "H100")
    assert small.starting and small.step_seconds == pytest.approx(5 * 2 * 1e-3 + 20e-3)
    assert not large.starting


# Data


def test_what_repeating_is_worth() -> None:
    """Muennighoff et al. 2023: four epochs are worth 3.73, forty 15.2, and no number of them more than 16.4."""
    assert worth(1e9, 1e9) == 1e9 and worth(1e9, 3e8) == 3e8
    assert worth(1e9, 4e9) == pytest.approx(3.7257e9, rel=1e-4)
    assert worth(1e9, 40e9) == pytest.approx(15.167e9, rel=1e-4)
    assert worth(1e9, 1e15) == pytest.approx(16.387756e9)
    assert worth(1e9, 4e9) - worth(1e9, 3e9) > 0.8e9 > 0.1e9 > worth(1e9, 41e9) - worth(1e9, 40e9)


def test_the_best_size_is_chinchillas() -> None:
    assert best_size(6 * 70e9 * 1.4e12) == pytest.approx(70e9)
    assert best_size(4e20) == pytest.approx(2 * best_size(1e20))


@pytest.mark.parametrize("most", [10**6, 4096])
def test_copies_are_found_in_all_parts_in_bounded_memory(most: int) -> None:
    """30,000 contents; every third occurs again in another part."""
    first, second = Seen(most=most), Seen(most=most)
    for number in range(30_000):
        first.add(b"%d" % number, 10)
        if number % 3 == 0:
            second.add(b"%d" % number, 10)
    assert not second.repeats().items
    whole = Seen.together([first, Seen.from_text(second.to_text())], most)
    assert len(whole.hashes) <= most
    assert whole.repeats().items == pytest.approx(0.25, abs=1e-9 if most == 10**6 else 0.02)
    assert whole.repeats().bytes == pytest.approx(whole.repeats().items)


@pytest.mark.parametrize(
    ("text", "words", "unspaced"),
    [
        ("It's 3 o'clock, naïve_ones.", 4, 0),
        ("नमस्ते दुनिया", 2, 0),  # vowel signs are parts of words, which Python's \w does not know
        ("Jërëjëf — waaw", 2, 0),
        ("你好世界", 1, 4),
        ("", 0, 0),
    ],
)
def test_words(text: str, words: int, unspaced: int) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    found = [pc.count_substring_regex(pa.array([text]), pattern)[0].as_py() for pattern in (WORD, UNSPACED)]
    assert found == [words, unspaced]


def test_a_survey_counts_what_there_is(tmp_path: Path) -> None:
    lines = ["one two three", "one  two three", "four", "", "five six seven eight nine ten eleven"]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    source = {"path": str(tmp_path / "*.txt"), "documents": "line"}
    spec = make(storage=tmp_path / "runs", data__sources=[source])
    found = survey(spec)
    counts = found.counts
    assert (counts.documents, counts.words, counts.bad_rows) == (4, 14, 1)
    assert counts.bytes == sum(map(len, lines)) and counts.tokens == counts.bytes + 4
    assert found.documents.items == pytest.approx(1 / 4)  # but for white space, the second line is the first
    assert "UTF-16" in found.sources[0].bad
    kept = Path(found.kept)
    kept.write_text(kept.read_text().replace('"documents":4.0', '"documents":7.0'))
    assert survey(spec).counts.documents == 7  # so it is not read again
    kept.write_text("{")
    assert survey(spec).counts.documents == 4
    (tmp_path / "text.txt").write_text("other")
    assert survey(spec).counts.documents == 1


def test_a_sample_of_files_represents_all(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(40):
        (tmp_path / f"data/{number}.txt").write_text(f"text number {number:02} of many\n" * (5 + number % 3))
    spec = make(tmp_path / "data", tmp_path / "runs")
    whole, part = survey(spec), survey(spec, sample_bytes=2000)
    assert part.sampled and 5 < part.sources[0].files_read < 20 and not whole.sampled
    for name in ("documents", "bytes", "words", "tokens"):
        assert getattr(part.counts, name) == pytest.approx(getattr(whole.counts, name), rel=0.15)
    assert survey(spec.model_copy(update={"seed": 7}), sample_bytes=2000).sources[0].files_read > 5


# Memory


@pytest.mark.parametrize("act", ["swiglu", "gelu"])
@pytest.mark.parametrize("bf16", [False, True])
def test_activations_are_those_that_autograd_keeps(bf16: bool, act: str) -> None:
    """Within 2 %, with LayerNorm, since RMSNorm on a CPU consists of several kernels."""
    spec = make(model={"width": 128, "depth": 4, "heads": 4, "context": 128, "norm": "ln", "act": act})
    model = Model(spec.model, spec.objective.build(), spec.unit_shape(257))
    initialise(model, 1)
    x = torch.randint(0, 257, (2, 128))
    batch = Batch(x, torch.ones_like(x, dtype=torch.bool), None, None, None, {}, False)
    own = {p.data_ptr() for p in (*model.parameters(), *model.buffers())}
    weights = {p.shape for p in model.parameters() if p.dim() == 2}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and not {tensor.shape, tensor.T.shape if tensor.dim() == 2 else None} & weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    precision = torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()
    alive = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: alive.append(t) or keep(t), lambda t: t), precision:
        model.encode(batch)
    assert of_layers(spec.model, 2, 128, 2 if bf16 else 4, "none", False) == pytest.approx(sum(kept.values()), rel=0.02)


@pytest.mark.parametrize("act", ["swiglu", "gelu"])
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_a_layer_keeps_what_is_predicted(recompute: Recompute, act: str) -> None:
    """Within 2 %: what two layers more keep after a forward pass."""
    kept, predicted = [], []
    for depth in (3, 5):
        spec = make(model={"width": 128, "depth": depth, "heads": 4, "context": 128, "norm": "ln", "act": act})
        model = Model(spec.model, spec.objective.build(), spec.unit_shape(257))
        initialise(model, 1)
        model.model.recompute = recompute
        x = torch.randint(0, 257, (8, 128))
        batch = Batch(x, torch.ones_like(x, dtype=torch.bool), None, None, None, {}, False)
        kept.append(allocated(lambda model=model, batch=batch: model.encode(batch))[0])
        predicted.append(of_layers(spec.model, 8, 128, 4, recompute, False))
    assert kept[1] - kept[0] == pytest.approx(predicted[1] - predicted[0], rel=0.02)


@pytest.mark.parametrize("exact", [True, False])
def test_the_state_is_what_a_trainer_holds(exact: bool) -> None:
    spec = make(train__exact=exact, model={"width": 64, "depth": 2, "heads": 2, "context": 32})
    trainer = Trainer(spec, Model(spec.model, spec.objective.build(), spec.unit_shape(257)), spec.objective.build())
    held = footprint(spec, 257, 1, on_gpu=False)
    assert held.weights == trainer.flat.buffer.nbytes
    assert held.gradients == trainer.flat.gradient.nbytes
    assert held.summing == sum(value.nbytes for value in vars(trainer.sum).values() if isinstance(value, torch.Tensor))
    trainer.optimizer.step(1, 1e-3, torch.ones(len(trainer.blocks) * 256))
    assert held.optimizer == sum(tensor.nbytes for tensor in trainer.optimizer.tensors().values())


def test_recomputing_makes_a_model_fit() -> None:
    spec = make(model={**LLAMA_7B, "depth": 6}, train={"steps": 10, "micro_batch_size": 16})
    found = estimate(spec, "H100")
    assert found.fits == "recomputing" and found.recomputed.total < found.memory.total
    assert estimate(spec, "L4").fits == "too large" and estimate(spec, "B200").fits == "fits"
    assert not found.remedy and not estimate(spec, "L4").remedy
    selective = make(model={**LLAMA_7B, "depth": 6}, train={"steps": 10, "micro_batch_size": 16, "recompute": "selective"})
    assert found.recomputed.total < estimate(selective, "H100").memory.total < found.memory.total
    assert estimate(selective, "A100 40GB").remedy.endswith("and train.recompute=full")
    finer = "train.micro_batch_size=4 with train.micro_batches=32"
    assert estimate(spec, "A100 40GB").remedy == finer
    assert estimate(spec, "RTX 5090").remedy == f"{finer} and train.exact=false"
    four = estimate(spec, "H100:4")
    assert four.memory.optimizer == pytest.approx(found.memory.optimizer / 4, rel=1e-3)


# Checkpoints


def test_checkpoints_that_pay() -> None:
    """100 GB by ten machines take 10 s; one of ten fails each 100 h: sqrt(2 x 10 x 360,000) = 2,683 s."""
    kept = checkpoints(int(100e9), 10, 2.0, Assumptions(mtbf_hours=1000, seconds_a_gigabyte=1))
    assert (kept.seconds, kept.between_failures) == (10, 360_000)
    assert kept.interval == pytest.approx(2683.28, rel=1e-5) and kept.steps == 1342
    assert kept.goodput == pytest.approx(1 - 10 / 2683.28 - (1341.64 + 120) / 360_000, rel=1e-6)
    worse = checkpoints(int(100e9), 10, 2.0, Assumptions(mtbf_hours=10, seconds_a_gigabyte=1))
    assert worse.interval == pytest.approx(kept.interval / 10) and worse.goodput < 0.93


# Coverage


def words_tokenizer(words: list[str]) -> Tokenizer:
    engine = Engine(models.WordLevel({"[UNK]": 0, **{word: at + 1 for at, word in enumerate(words)}}, unk_token="[UNK]"))
    engine.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    return Tokenizer(engine, -1)


def test_fertility() -> None:
    whole = fertility("bytes", make_bytes(), ["ab cdé"])
    assert (whole.tokens, whole.words, whole.bytes, whole.unknown) == (7, 2, 7, 0)
    assert whole.per_word == 3.5 and whole.per_character == pytest.approx(7 / 6)
    partly = fertility("words", words_tokenizer(["one", "two"]), ["one two three"])
    assert (partly.tokens, partly.unknown) == (3, 5 / 11)


def test_text_without_tokens_is_reported_even_if_it_is_dropped() -> None:
    engine = Engine(models.BPE({"a": 0, "b": 1}, []))  # knows no unknown token: what it has not is passed over
    assert fertility("ab", Tokenizer(engine, -1), ["aabbxyz."]).unknown == 0.5


@pytest.fixture
def english(tmp_path: Path, prose: Path) -> Path:
    path = tmp_path / "english.json"
    path.write_text(train_bpe([prose.read_text()[:200_000]], 2000).to_json())
    return path


def test_a_tokenizer_of_other_text_needs_more(tmp_path: Path, prose: Path, english: Path) -> None:
    """The same prose with its letters moved by seven: another language, as far as a tokenizer is concerned."""
    text = prose.read_text()[200_000:]
    moved = "".join(chr((ord(c) - 97 + 7) % 26 + 97) if "a" <= c <= "z" else c for c in text)
    verdicts = {}
    for name, content in (("same", text), ("moved", moved)):
        source = tmp_path / f"{name}.txt"
        source.write_text(content)
        spec = make(source, tmp_path / "runs")
        found = coverage(spec, survey(spec), load_named([str(english)]))
        assert found and found.best
        verdicts[name] = found.best
    assert verdicts["same"].covers == "covered" and verdicts["same"].gap < 1.2
    assert verdicts["moved"].covers == "uncovered" and verdicts["moved"].gap > 1.5
    assert verdicts["moved"].own.vocabulary <= 2000


def test_a_file_that_truncates_gets_whole_texts(tmp_path: Path, english: Path) -> None:
    engine = Engine.from_file(str(english))
    engine.enable_truncation(4)
    engine.enable_padding(length=4000)
    engine.save(str(tmp_path / "short.json"))
    short, whole = load_named([str(tmp_path / "short.json"), str(english)]).values()
    text = ["the quick brown fox jumps over the lazy dog"]
    assert fertility("", short, text).tokens == fertility("", whole, text).tokens > 8


# Advice


def test_what_decides(tmp_path: Path, prose: Path, english: Path) -> None:
    spec = make(prose, tmp_path / "runs")
    h100 = ["H100"]  # a CPU's speed would be measured
    plain, named = plan(spec, gpus=h100), plan(spec, tokenizers=[str(english)], gpus=h100)
    assert (plain.advice.verdict, named.advice.verdict) == ("fine-tune", "fine-tune")
    assert not plain.advice.reasons and any("--tokenizer" in text for text in plain.advice.changes)
    assert any("covers this data" in text for text in named.advice.objections)
    for reason in ("architecture", "control", "research"):
        assert plan(spec, because=[reason], gpus=h100).advice.verdict == "pre-train"
    much = [source.model_copy(update={"counts": source.counts.times(1e5)}) for source in plain.survey.sources]
    from foundray.planning.advice import advice
    from foundray.planning.budget import budget

    large = plain.survey.model_copy(update={"sources": much})
    assert advice(spec, large, budget(spec, large), plain.coverage, []).verdict == "continue"
    assert named.coverage and named.coverage.best
    best = named.coverage.best
    foreign = replace(named.coverage, named=(replace(best, named=replace(best.named, tokens=2 * best.named.tokens)),))
    found = advice(spec, large, budget(spec, large), foreign, [])
    assert found.verdict == "pre-train" and "times as many steps" in found.reasons[0]


def test_too_few_tokens_are_reported_with_their_numbers(tmp_path: Path, prose: Path) -> None:
    """360,000 bytes to train on; two parameters per byte, and so on."""
    spec = make(prose, tmp_path / "runs", train={"steps": 400, "micro_batches": 100, "micro_batch_size": 10})
    found = plan(spec, gpus=["H100"])
    training = 400_001 * 0.9
    assert found.budget.epochs == pytest.approx(400 * 1000 * 32 / training)
    assert found.budget.size_for_data(1) == pytest.approx(training / 20)
    assert any("35.6 epochs" in text for text in found.advice.objections)
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_page_names_what_saves_memory(tmp_path: Path, prose: Path) -> None:
    spec = make(prose, tmp_path / "runs", train={"steps": 10, "recompute": "selective", "loss_chunk": 16})
    found = plan(spec, gpus=["H100"])
    assert "(estimated, train.recompute: selective, train.loss_chunk: 16)" in " ".join(found.table().split())
    (one,) = found.estimates
    between = int((one.memory.total + one.recomputed.total) / 2 / FULL)
    scarce = replace(found, estimates=[replace(one, fleet=replace(one.fleet, memory=between))])
    text = " ".join(scarce.table().split())
    assert "fits with train.recompute: full" in text
    assert "(estimated, train.recompute: full, train.loss_chunk: 16)" in text


@pytest.mark.parametrize("damaged", [False, True])
def test_the_best_size_is_by_the_runs_forecast_unless_that_is_damaged(tmp_path: Path, prose: Path, damaged: bool) -> None:
    spec, said = make(prose, tmp_path / "runs"), list[str]()
    law: dict[str, Any] = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34} | ({} if damaged else {"beta": 0.28})
    stated = {"fingerprint": spec.fingerprint(), "loss": 2.0, "interval": {"low": 1.9, "high": 2.1}, "law": law}
    (Run.named(spec).folder / "forecast.json").write_text(json.dumps(stated))
    found = plan(spec, gpus=["H100"], report=said.append)
    assert found.budget.law == ("Hoffmann et al. 2022" if damaged else "this run's forecast")
    assert any("forecast.json is damaged" in line for line in said) == damaged


# What is refused, and how numbers read


@pytest.mark.parametrize(
    ("gpus", "prices", "said"),
    [
        (["H1000"], [], "did you mean H100?"),
        (["H100:0"], [], "such as H100:8"),
        (["H100"], ["A100=2"], "the plan is for H100 and not for A100"),
        (["H100"], ["H100=-2"], "such as H100=2.5"),
        (["H100"], ["H100"], "such as H100=2.5"),
    ],
)
def test_bad_machines(gpus: list[str], prices: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said.replace("?", r"\?")):
        fleets(make(), gpus, prices, None)


def test_what_is_no_tokenizer_is_refused(tmp_path: Path, prose: Path) -> None:
    (tmp_path / "broken.json").write_text('{"model": ')
    (tmp_path / "binary.json").write_bytes(b"\x80\x04\x95")
    for name, said in (
        ("none", "cannot be read"),
        ("broken", "is not a tokenizer.json"),
        ("binary", "is not a tokenizer.json"),
    ):
        with pytest.raises(InputError, match=said):
            load_named([str(tmp_path / f"{name}.json")])
    with pytest.raises(InputError, match="the reasons are: architecture, control, research"):
        plan(make(prose, tmp_path / "runs"), because=["fame"])
    dna = make(data__modality={"kind": "dna"}, data__sources=[{"path": "x", "format": "fasta"}])
    found = survey(make(prose, tmp_path / "runs")).model_copy(update={"of_text": False, "kind": "dna"})
    with pytest.raises(InputError, match="the data is dna"):
        coverage(dna, found, {"bytes": make_bytes()})
    assert coverage(dna, found, {}) is None


def test_names_are_taken_in_any_writing() -> None:
    found = fleets(make(), ["rtx-4090:2", "NVIDIA h100 nvl", "a100-40gb"], ["h100-nvl=3"], None)
    assert [fleet.label for fleet in found] == ["2 x RTX 4090", "1 x H100 NVL", "1 x A100 40GB"]
    assert [fleet.label for fleet in fleets(make(), ["H100:8", "H100:16"], [], None)] == ["8 x H100", "16 x H100"]
    assert (found[1].price, found[1].peak, found[2].peak, found[2].memory) == (3, 835e12, 312e12, 40e9)


def test_bad_assumptions() -> None:
    assert assume(None, None, None, None) == Assumptions()
    for given in ((0, None, None, None), (1.5, None, None, None), (None, -1, None, None), (None, math.nan, None, None)):
        with pytest.raises(InputError):
            assume(*given)


def test_numbers_read_well() -> None:
    assert [count(n) for n in (0.5, 950, 999_600, 1.1e6, 2e10)] == ["0.5", "950", "1 million", "1.1 million", "20 billion"]
    assert [ratio(n) for n in (0.00105, 2.5, 1230)] == ["0.00105", "2.5", "1,230"]
    assert [about(s) for s in (0.2, 48, 200, 20_000, 1e6, 1e8)] == [
        "0.2 s",
        "48 s",
        "3.3 min",
        "5.6 h",
        "12 days",
        "3.17 years",
    ]
    assert [size(b) for b in (0, 1234, 999_600, 80e9)] == ["0 B", "1.23 kB", "1 MB", "80 GB"]
