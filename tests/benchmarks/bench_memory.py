"""Peak memory of the tasks that read and tokenize a file of one long line: `python -m tests.benchmarks.bench_memory`.

Each task is its own process, with all imports of a Ray task; its peak is the largest resident size that the kernel saw.
Tasks: `alphabet` and `vocabulary` make the tokenizers that the data decides, `prepare` makes a shard, `plan` reads and counts,
`embed` cuts documents into samples. Texts: words of real source code with spaces, letters without any white space, and Chinese
with an emoji in it, which Python holds in four bytes per character. Tokenizers: the three of Foundray, a file whose words are
Llama 3's, and two files without places that tokens never cross.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIMIT = 1536
"""Limit on a task's peak, in MiB."""
MEGABYTES = 200
BLOCK = 2**20
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXTS = ("words", "letters", "chinese")
KINDS = ("bytes", "char", "bpe", "llama3", "unigram", "wordpiece")
TASKS = ("prepare", "plan", "embed")
ENTRIES = 4096


def blocks(text: str) -> Iterator[bytes]:
    """Yield the text's UTF-8 endlessly, about `BLOCK` bytes at a time."""
    rng, words = random.Random(0), _words()
    while True:
        if text == "words":
            yield (" ".join(words) + " ").encode()
            rng.shuffle(words)
        elif text == "letters":
            yield "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=BLOCK)).encode()
        else:
            signs = "".join(map(chr, range(0x4E00, 0x5E00)))
            yield "".join([*rng.choices(signs, k=BLOCK // 3), "🙂"]).encode()


def _words() -> list[str]:
    import sysconfig

    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:60]
    return " ".join(file.read_text(encoding="utf-8", errors="ignore") for file in files).split()


def write_text(path: Path, text: str, size: int) -> None:
    """Write one line of about `size` bytes."""
    written = 0
    with path.open("wb") as file:
        for block in blocks(text):
            written += file.write(block)
            if written >= size:
                return


def write_tokenizer(path: Path, kind: str, texts: list[str]) -> None:
    """A tokenizer.json, trained on little; its token 0 opens documents."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    from foundray.data.tokenizers.tokenizer import DOCUMENT

    options: dict[str, Any] = {"vocab_size": ENTRIES, "show_progress": False}
    if kind == "llama3":
        engine = Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
        letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        engine.pre_tokenizer = pre_tokenizers.Sequence([split, letters])
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=[DOCUMENT], **options)
    elif kind == "unigram":
        engine = Tokenizer(models.Unigram())
        engine.normalizer, engine.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token="<unk>", special_tokens=[DOCUMENT, "<unk>"], **options)
    else:
        engine = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        engine.normalizer, engine.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(special_tokens=[DOCUMENT, "[UNK]"], **options)
    engine.train_from_iterator(texts, trainer)
    engine.save(str(path))


def task(name: str, kind: str, text: Path, tokenizer: Path, folder: Path) -> None:
    """Run the task, and print its peak in MiB and its seconds."""
    import ray.data  # noqa: F401 - so does a task

    from foundray import spec
    from foundray.data.files.files import find_files
    from foundray.data.prepare import vocabulary
    from foundray.data.prepare.limits import Limits
    from foundray.data.prepare.reader import Row
    from foundray.data.prepare.shard import Unit, make_shard
    from foundray.data.tokenizers.tokenizer import Tokenizer
    from foundray.planning.reading import read_text_unit

    source = spec.SourceConfig(path=str(text))
    unit = Unit("0-00000", 0, tuple(find_files(source)))
    began = time.perf_counter()
    if name == "alphabet":
        made = len(vocabulary._characters(unit, source))
    elif name == "vocabulary":
        made = tokenizer.write_text(vocabulary._train_bpe(_spec(text, folder, {"kind": "bpe", "vocab_size": ENTRIES}), [unit]))
    else:
        cutter = Tokenizer.from_json(tokenizer.read_text(), 0)
        if name == "prepare":
            made = make_shard(str(folder), unit, source, cutter, 1024, Limits(0, 0.0)).tokens
        elif name == "plan":
            made = int(read_text_unit(unit, source, cutter, 0, 2**26).counts.tokens)
        else:
            made = sum(isinstance(row, Row) for row in _reader(cutter, folder).read(source))
    if not made:
        raise RuntimeError("nothing came out")
    print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.perf_counter() - began]))


def _spec(text: Path, folder: Path, tokenizer: dict[str, Any]) -> Any:
    from foundray.spec import Spec
    from foundray.testing.specs import small_spec

    return Spec.model_validate(small_spec(text, folder, data={"sources": [{"path": str(text)}], "tokenizer": tokenizer}))


def _reader(tokenizer: Any, folder: Path) -> Any:
    """The reader of `embed`, for a run that never took place."""
    from foundray.data.prepare.reader import Reader

    class Run:
        def __init__(self, folder: Any):
            self.folder = folder

        def spec(self) -> Any:
            return _spec(folder / "none", folder, {"kind": "bytes"})

        def manifest(self) -> dict[str, Any]:
            return {"context": 1024, "vocabulary": tokenizer.vocabulary, "document_id": 0}

    from foundray.storage import Store

    (folder / "tokenizer.json").write_text(tokenizer.to_json())
    return Reader(Run(Store.at(str(folder))))


def run(name: str, kind: str, text: Path, tokenizer: Path, folder: Path) -> tuple[float, float]:
    """Run a task in its own process. Returns (peak in MiB, seconds)."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", __spec__.name, "--task", name, kind, str(text), str(tokenizer), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "RAY_DATA_DISABLE_PROGRESS_BARS": "1"})
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    peak, seconds = json.loads(done.stdout.splitlines()[-1])
    return peak, seconds


def main(megabytes: int, kinds: list[str], texts: list[str], tasks: list[str]) -> int:
    """Print a table. Returns 1 if a task needs too much memory."""
    worst = 0.0
    with tempfile.TemporaryDirectory() as made:
        here = Path(made)
        print(f"peak memory in MiB, and seconds, for one line of {megabytes} MB; {LIMIT:,} MiB are the limit")
        print(f"{'tokenizer':12}{'text':10}" + "".join(f"{name:>18}" for name in ("its making", *tasks)))
        for text in texts:
            write_text(path := here / f"{text}.txt", text, megabytes * 10**6)
            for kind in kinds:
                tokenizer, folder = here / f"{kind}-{text}.json", here / "made"
                cells = [_make(kind, path, tokenizer, folder)]
                cells += [run(name, kind, path, tokenizer, folder) for name in tasks]
                worst = max(worst, *(peak for peak, _ in cells))
                shown = "".join(f"{peak:11,.0f}{seconds:6,.0f}s" if peak else f"{'':18}" for peak, seconds in cells)
                print(f"{kind:12}{text:10}{shown}", flush=True)
            path.unlink()
    print(f"the most is {worst:,.0f} MiB")
    return int(worst > LIMIT)


def _make(kind: str, text: Path, tokenizer: Path, folder: Path) -> tuple[float, float]:
    """Write the tokenizer. Returns (peak, seconds) if it is made from the data."""
    from foundray.data.tokenizers import tokenizer as tokenizers

    with text.open("rb") as file:
        start = file.read(BLOCK).decode("utf-8", "ignore")
    if kind == "bytes":
        tokenizer.write_text(tokenizers.make_bytes().to_json())
    elif kind == "char":
        tokenizer.write_text(tokenizers.make_char(set(start)).to_json())
        return run("alphabet", kind, text, tokenizer, folder)
    elif kind == "bpe":
        return run("vocabulary", kind, text, tokenizer, folder)
    else:
        # Long words would take hours to train on.
        write_tokenizer(tokenizer, kind, [word[at : at + 64] for word in start.split() for at in range(0, len(word), 64)])
    return 0.0, 0.0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=MEGABYTES)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--texts", nargs="+", choices=TEXTS, default=list(TEXTS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--task", nargs=5, help="used by the benchmark itself")
    options = parser.parse_args()
    if options.task:
        name, kind, *paths = options.task
        task(name, kind, *map(Path, paths))
    else:
        sys.exit(main(options.megabytes, options.kinds, options.texts, options.tasks))
