"""Vectors of 50,000 short texts on two workers, beside taking one text at a time: `python -m tests.benchmarks.bench_embedding`.

What one would write without a platform is a loop over texts with the exported model in transformers: tokenize, forward, mean of
the last hidden states. It has the texts in memory; ours reads files and writes Parquet. Each loop runs with one thread and with
all cores, and the faster one counts: small matrices gain little from more threads, and are slower on a busy machine. The
same loop over our own encoder shows how much of the difference is due to the library, and how much to batches and workers. They
take turns in one run, since a shared machine's speed drifts; the loops read a sample of the texts.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

TEXTS, SAMPLE, TURNS, WORKERS = 50_000, 2_000, 3, 2


def write_texts(path: Path) -> None:
    """Lines of four to twelve real words, from the standard library's source, all shorter than the model's context."""
    import sysconfig

    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:60]
    found = " ".join(file.read_text(encoding="utf-8", errors="ignore") for file in files).split()
    words = sorted({word for word in found if word.isalpha() and len(word) < 9})
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 13, TEXTS)
    path.write_text("\n".join(" ".join(words[at] for at in rng.integers(0, len(words), length)) for length in lengths))


def of_transformers(model: str, texts: list[str]) -> np.ndarray:
    """Embed one text at a time, [N, D]."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model).eval()

    @torch.no_grad()
    def one(text: str) -> np.ndarray:
        return network(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy()

    return _timed(one, texts)


def of_encoder(run: str, texts: list[str]) -> np.ndarray:
    """Embed one text at a time with our own encoder, [N, D]."""
    from foundray.data.prepare.reader import Reader
    from foundray.evaluation.encoder import Encoder, features
    from foundray.runs.run import Run

    reader, encoder = Reader(Run.open(run)), Encoder.trained(Run.open(run))
    return _timed(lambda text: features(encoder, [reader.text_units(text)], "mean")[0], texts)


def _timed(one: Callable[[str], np.ndarray], texts: list[str]) -> np.ndarray:
    for text in texts[:50]:  # warm
        one(text)
    began = time.perf_counter()
    vectors = np.stack([one(text) for text in texts])
    print(len(texts) / (time.perf_counter() - began))
    return vectors


def loop(kind: str, of: str, texts: Path, vectors: Path) -> float:
    """Texts per second of a loop in its own process, with one thread or with all cores, whichever is faster."""
    command = [sys.executable, "-m", __spec__.name, kind, of, str(texts), str(vectors)]
    speeds = []
    for threads in (1, os.cpu_count() or 1):
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        speeds.append(float(done.stdout.splitlines()[-1]))
    return max(speeds)


def main() -> None:
    import foundray
    from foundray.cluster.connect import connected
    from foundray.testing.specs import small_spec, write_spec
    from foundray.vectors.search import Searcher

    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        write_texts(texts := here / "texts.txt")
        speeds: dict[str, list[float]] = {"transformers": [], "encoder": [], "ours": [], "ours, with its start": []}
        with connected():
            spec = small_spec(texts, here / "runs", model={"width": 128, "depth": 4, "heads": 4, "context": 128})
            run = foundray.train(write_spec(here, spec), {"train.steps": 4}).run
            foundray.export(run, here / "exported")
            for turn in range(TURNS):
                for kind, of in (("transformers", str(here / "exported")), ("encoder", run)):
                    speeds[kind].append(loop(kind, of, texts, here / f"{kind}.npy"))
                began = time.perf_counter()
                made = foundray.embed(
                    run, texts, here / f"out-{turn}", {"documents": "line"}, workers=WORKERS, resources={"CPU": 1}
                )
                assert made.rows == TEXTS
                speeds["ours, with its start"].append(made.rows / (time.perf_counter() - began))
                speeds["ours"].append(made.rows_per_s or 0.0)
                rates = ", ".join(f"{name} {values[-1]:,.0f}" for name, values in speeds.items())
                print(f"turn {turn + 1}, texts/s: {rates}", flush=True)
        searcher = Searcher(str(here / "out-0"))
        asked = [_search(searcher, text) for text in texts.read_text().splitlines()[:20]]
        theirs, own = np.load(here / "transformers.npy"), np.load(here / "encoder.npy")
    print(f"\n{TEXTS:,} texts of 4 to 12 words, {WORKERS} workers of one thread; loops over {SAMPLE:,}; medians")
    for name, values in speeds.items():
        ratio = statistics.median(ours / value for ours, value in zip(speeds["ours"], values, strict=True))
        print(f"{name:24}{statistics.median(values):10,.0f} texts/s   ours is {ratio:.2f} times that")
    print(f"transformers' vectors and the encoder's differ by {np.abs(theirs - own).max():.1e} at most")
    print(f"a search for a text among them, index and model loaded: {statistics.median(asked) * 1000:.1f} ms")


def _search(searcher: object, text: str) -> float:
    began = time.perf_counter()
    searcher.search(text)  # type: ignore[attr-defined]
    return time.perf_counter() - began


if __name__ == "__main__":
    if len(sys.argv) > 1:
        kind, of, texts, vectors = sys.argv[1:]
        some = Path(texts).read_text().splitlines()[:SAMPLE]
        np.save(vectors, (of_transformers if kind == "transformers" else of_encoder)(of, some))
    else:
        main()
