"""`examples/after`: each script with a user's arguments, on one small run that was trained and exported."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from tests.command import Done, foundray_here
from tests.repository import REPOSITORY

import foundray as api
from foundray.testing.specs import small_spec, write_spec

pytestmark = pytest.mark.thorough

SCRIPTS = REPOSITORY / "examples" / "after"
MODULES = ("base_events.py", "events.py", "futures.py", "locks.py", "queues.py", "streams.py", "tasks.py")
"""Docstrings of asyncio; the first and the sixth are held out."""


PAIRS = ("--pairs", 64, "--steps", 16, "--lr", 0.001)

IN_ONE_PROCESS = """
import contextlib, io, json, runpy, sys

for arguments in json.loads(sys.argv[1]):
    sys.argv = arguments
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            runpy.run_path(arguments[0], run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code
    print(json.dumps([status, out.getvalue(), err.getvalue()]))
"""


def scripts(*commands: tuple[object, ...]) -> list[Done]:
    """Scripts with their arguments, one after the other in one process: most of each is imports."""
    given = json.dumps([[str(SCRIPTS / str(name)), *map(str, arguments)] for name, *arguments in commands])
    done = subprocess.run([sys.executable, "-c", IN_ONE_PROCESS, given], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return [Done(*json.loads(line)) for line in done.stdout.splitlines()]


def figures(done: Done, name: str) -> list[float]:
    """Numbers at the end of the line that begins with the name."""
    assert done.status == 0, done.err
    line = next(line for line in done.out.splitlines() if line.startswith(name))
    return [float(number) for number in re.findall(r"-?\d+\.\d+|nan", line)]


@pytest.fixture(scope="module")
def made(own_ray: None, prose: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `texts`, with `runs/small`, trained a little on other texts, and with its export `base`."""
    folder = tmp_path_factory.mktemp("after")
    (folder / "texts").mkdir()
    for name in MODULES:
        text = (Path(sysconfig.get_paths()["stdlib"]) / "asyncio" / name).read_text()
        (folder / "texts" / name).write_text(text[:12_000])
    tokens = {"kind": "bpe", "vocab_size": 512}
    shape = {"width": 48, "depth": 2, "heads": 2, "context": 128}
    steps = {"steps": 80, "micro_batches": 2, "micro_batch_size": 4, "evaluate_every": 1000, "checkpoint_every": 1000}
    spec = small_spec(prose, folder / "runs", data__tokenizer=tokens, model=shape, train=steps)
    api.train(write_spec(folder, spec))
    api.export(folder / "runs" / "small", folder / "base")
    return folder


@pytest.fixture(scope="module")
def wanted(made: Path) -> str:
    """A paragraph of the texts, of which `made` then has the vectors."""
    options = ("--set", "documents=paragraph", "--normalise", "--workers", 1)
    searched = made / "texts" / "[a-q]*.py"
    assert foundray_here("embed", made / "runs" / "small", searched, made / "vectors", *options).status == 0
    paragraphs = (made / "texts" / "queues.py").read_text().split("\n\n")
    return next(paragraph for paragraph in paragraphs if 30 < len(paragraph) < 60).rstrip()


@pytest.fixture(scope="module")
def done(made: Path, wanted: str) -> dict[str, Done]:
    """What each script did."""
    base, texts, out = (made / name for name in ("base", "texts", "out"))
    commands: dict[str, tuple[object, ...]] = {
        "adapter": ("finetune.py", base, made / "adapter", "--data", texts, "--steps", 30, "--lr", 0.005),
        "preference": ("prefer.py", base, made / "preferring", "--data", texts, *PAIRS),
        "search": ("retrieve.py", base, made / "vectors", "--query", wanted),
        "measured": ("retrieve.py", base, made / "vectors", "--data", texts, "--files", "[s-z]*.py"),
        **{f"no model for {name}": (name, texts, out) for name in ("finetune.py", "prefer.py", "retrieve.py")},
        "one file": ("finetune.py", base, out, "--data", texts, "--files", "tasks.py"),
    }
    return dict(zip(commands, scripts(*commands.values()), strict=True))


def test_an_adapter_lowers_the_loss_of_held_out_text(made: Path, done: dict[str, Done]) -> None:
    before, after = figures(done["adapter"], "held-out loss")
    assert after < before - 0.05
    assert (made / "adapter" / "adapter_model.safetensors").exists()
    assert "--- with the adapter\nasync def " in done["adapter"].out


def test_fine_tuning_asks_for_the_end_of_texts_and_not_for_padding(made: Path) -> None:
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq

    tokenizer = AutoTokenizer.from_pretrained(made / "base", padding_side="right")
    pieces = runpy.run_path(str(SCRIPTS / "finetune.py"))["pieces"]
    batch = DataCollatorForSeq2Seq(tokenizer)([*pieces(tokenizer, ["x = 1\n" * 3, "y"], 128)])
    document = tokenizer.eos_token_id
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        length = int(mask.sum())
        assert ids[0] == ids[length - 1] == labels[length - 1] == document
        assert (labels[length:] == -100).all()
    assert batch["attention_mask"].sum(1).unique().numel() == 2  # so that one of them is padded


def test_preference_moves_towards_what_people_wrote(made: Path, done: dict[str, Done]) -> None:
    assert figures(done["preference"], "reward margin")[1] > 0.2
    assert figures(done["preference"], "reward higher for chosen")[1] > 0.7
    before, after = figures(done["preference"], "chosen more probable than rejected")
    assert after >= before
    assert (made / "preferring" / "model.safetensors").exists()


def test_what_a_search_finds_stands_in_the_prompt(wanted: str, done: dict[str, Done]) -> None:
    assert done["search"].status == 0, done["search"].err
    prompt = done["search"].out.partition("--- what the model writes")[0]
    assert prompt.count(wanted) == 2
    for name in ("nothing", "what was found for another one", "what was found  ", "the passage itself"):
        assert 2 < figures(done["measured"], name)[0] < 6.5


def test_bad_input_is_refused_in_one_sentence(done: dict[str, Done]) -> None:
    for name in ("finetune.py", "prefer.py", "retrieve.py"):
        assert "holds no model that continues texts" in done[f"no model for {name}"].refusal
    assert "holds 1 files like tasks.py: two are needed" in done["one file"].refusal
