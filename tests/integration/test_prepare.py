"""`prepare` on real Ray Data: formats, quarantine, doing nothing twice, reporting changes, continuing after a kill."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from tests.command import FOUNDRAY

import foundray
from foundray.data.prepare.quarantine import Balance
from foundray.errors import InputError
from foundray.spec.loading import load_spec
from foundray.storage import sha256
from foundray.testing.specs import small_spec, write_spec
from foundray.testing.waiting import wait_until

pytestmark = pytest.mark.usefixtures("own_ray")


def spec_of(folder: Path, sources: list[dict], **changes) -> Path:
    return write_spec(folder, small_spec(folder, folder / "runs", data__sources=sources, **changes))


def sentences(word: str, count: int) -> list[str]:
    return [f"{word} number {i} says a few words about {word}." for i in range(count)]


def test_formats_compressions_and_mixed_sources(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    lines = [json.dumps({"body": text}) for text in sentences("json", 200)]
    (raw / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(lines[:100]).encode()))
    (raw / "b.jsonl.zst").write_bytes(zstandard.compress("\n".join(lines[100:]).encode()))
    pq.write_table(pa.table({"text": sentences("table", 150)}), raw / "c.parquet")
    (raw / "d.txt").write_text("\n\n".join(sentences("plain", 90)))
    sources = [
        {"path": str(raw), "format": "jsonl", "field": "body", "weight": 2},
        {"path": str(raw / "*.parquet"), "format": "parquet"},
        {"path": str(raw / "d.txt"), "documents": "paragraph"},
    ]
    prepared = foundray.prepare(spec_of(tmp_path, sources))
    manifest = prepared.manifest
    assert [(s.source, s.documents) for s in manifest.shards] == [(0, 200), (1, 150), (2, 90)]
    tokenizer = prepared.tokenizer()
    for shard in manifest.shards:
        path = Path(prepared.folder.path) / shard.file
        assert sha256(path.read_bytes()) == shard.sha256
        samples = pq.read_table(path).column("tokens").to_pylist()
        assert len(samples) == shard.rows
        assert sum(len(sample) - 1 for sample in samples) == shard.tokens
        stream = samples[0][:1] + [token for sample in samples for token in sample[1:]]
        documents = "".join("\x00" if t == 0 else tokenizer.decode([t]) for t in stream).split("\x00")[1:]
        expected = [sentences("json", 200), sentences("table", 150), sentences("plain", 90)][shard.source]
        assert documents == expected


def test_bad_rows_are_quarantined_and_counted(tmp_path: Path) -> None:
    rows = ['{"text": "%s"}' % text for text in sentences("good", 50)]  # noqa: UP031
    rows[10], rows[20], rows[30] = "{broken", '{"text": ""}', '{"body": "x", "id": 3}'
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    spec, said = spec_of(tmp_path, [{"path": str(tmp_path / "a.jsonl"), "format": "jsonl"}]), []
    prepared = foundray.prepare(spec, report=said.append)
    assert prepared.manifest.quarantined == prepared.manifest.shards[0].quarantined == 2
    assert prepared.manifest.balance() == Balance(documents=47, lost={"row": 2}, empty=1)
    place = prepared.folder / "quarantine.jsonl"
    listed = [json.loads(line) for line in place.read_text().splitlines()]
    assert [(row["position"], row["lost"], row["unit"]) for row in listed] == [("line 11", 1, "row"), ("line 31", 1, "row")]
    assert listed[0]["source"].endswith("a.jsonl")
    assert listed[0]["reason"].startswith("not JSON")
    counts = f", 2 rows quarantined (list: {place}, `foundray quarantine {prepared.folder}` shows it), 1 empty, "
    assert said[-1].startswith("data: 47 documents, ") and counts + "prepared " in said[-1]
    foundray.prepare(spec, report=said.append)
    assert counts + "already prepared in" in said[-1], "which a run that uses them says, too"
    found = foundray.quarantine(spec)
    assert found.complete and found.balance == prepared.manifest.balance() and len(found.lines) == 2


def test_limits_stop_the_job_and_hold_for_what_an_earlier_job_read(tmp_path: Path) -> None:
    rows = ['{"text": "%s"}' % text for text in sentences("good", 20)]  # noqa: UP031
    for name, bad in (("a", 12), ("b", 12)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join([*rows, *['{"body": 1, "id": 2}'] * bad]))
    (tmp_path / "c.jsonl").write_text("\n".join([rows[0], *['{"body": 1, "id": 2}'] * 2]))
    good = [{"path": str(tmp_path / f"{name}.jsonl"), "format": "jsonl"} for name in ("a", "b")]
    spec = spec_of(tmp_path, good)
    over = r"12 rows of .* and 20 can, more than data\.max_bad_rows of "
    for rows_allowed, said in (
        (11, over + r"11: no field 'text'.*body, id.*line 21"),
        (20, over + r"20 with those of other sources \(24 in all\)"),
        (20, over + r"20 with those of other sources \(24 in all\)"),
    ):
        with pytest.raises(InputError, match=said):
            foundray.prepare(spec, {"data.max_bad_rows": rows_allowed})
        assert foundray.quarantine(spec).balance.bad >= 12, "whatever stopped it, the list is there"
    assert foundray.prepare(spec, {"data.max_bad_rows": 24}).manifest.balance().lost == {"row": 24}
    small = spec_of(tmp_path, [*good, {"path": str(tmp_path / "c.jsonl"), "format": "jsonl"}])
    with pytest.raises(InputError, match=r"data\.sources\.2: 2 rows of .* and 1 can, a larger share than data\.max_bad_share"):
        foundray.prepare(small)
    assert foundray.prepare(small, {"data.max_bad_share": 0.7}).manifest.balance(2) == Balance(documents=1, lost={"row": 2})


def test_preparing_twice_does_nothing_and_a_change_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(sentences("text", 300)))
    spec, said = spec_of(tmp_path, [{"path": str(tmp_path / "a.txt")}]), []
    first = foundray.prepare(spec, report=said.append)
    stamps = {path: path.stat().st_mtime_ns for path in Path(first.folder.path).rglob("*")}
    again = foundray.prepare(spec, report=said.append)
    assert "already prepared" in said[-1]
    assert {path: path.stat().st_mtime_ns for path in Path(again.folder.path).rglob("*")} == stamps
    said.clear()
    changed = foundray.prepare(spec, {"model.context": 16}, report=said.append)
    assert said[0] == "data: preparing again, because context was 32 and is 16"
    assert changed.folder.url != first.folder.url
    # What only decides the order, or the model, needs no new shards.
    assert foundray.prepare(spec, {"model.width": 64, "data.holdout": 0.2}).folder.url == first.folder.url


def test_bpe_and_char_tokenizers_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(sentences("text", 300)))
    spec = spec_of(tmp_path, [{"path": str(tmp_path / "a.txt")}])
    runs = [
        foundray.prepare(spec, {"data.tokenizer": {"kind": "bpe", "vocab_size": 300}, "storage": str(tmp_path / name)})
        for name in ("one", "two")
    ]
    assert runs[0].manifest.vocabulary == 300
    assert runs[0].manifest.tokens < runs[0].manifest.shards[0].text_bytes / 2
    assert [s.sha256 for s in runs[0].manifest.shards] == [s.sha256 for s in runs[1].manifest.shards]
    char = foundray.prepare(spec, {"data.tokenizer.kind": "char"}).manifest
    assert char.vocabulary == len(set((tmp_path / "a.txt").read_text())) + 2


def test_a_killed_preparation_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for i in range(8):  # each file is larger than a unit, once that is made small
        (raw / f"{i}.txt").write_text("\n".join(sentences(f"file{i}", 25_000)))
    # The command runs in a process of its own, with smaller units, so that there is time to kill it between two.
    script = tmp_path / "prepare.py"
    script.write_text(
        "import sys, foundray.data.prepare.recipe as p\np.UNIT_BYTES = 10**6\n"
        "from foundray.cli import main\nmain(['prepare', sys.argv[1]])\n"
    )
    spec = spec_of(tmp_path, [{"path": str(raw)}])
    python = str(Path(FOUNDRAY).with_name("python"))
    process = subprocess.Popen([python, str(script), str(spec)], stdout=subprocess.PIPE, text=True)
    units = tmp_path / "runs" / "prepared"
    try:
        done = wait_until(lambda: list(units.glob("*/units/*.json")), 400, "a unit that is done", pause=0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not list(units.glob("*/manifest.json"))
    stamps = {path: path.stat().st_mtime_ns for path in done}
    monkeypatch.setattr("foundray.data.prepare.recipe.UNIT_BYTES", 10**6)
    said: list[str] = []
    prepared = foundray.prepare(spec, report=said.append)
    assert any(line.startswith("data: resuming the preparation") for line in said)
    assert {path: path.stat().st_mtime_ns for path in done} == stamps
    fresh = foundray.prepare(spec, {"storage": str(tmp_path / "fresh")})
    assert fresh.manifest.shards == prepared.manifest.shards
    assert len(fresh.manifest.shards) == 8


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no usable document .*empty"),
        (b"abc\xff\x00\x01", "1 file of .* cannot be used and none can: not UTF-8"),
        (b" \n ", "no usable document .*empty"),
    ],
)
def test_sources_without_a_document(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=said):
        foundray.prepare(spec_of(tmp_path, [{"path": str(tmp_path / "a.txt")}]))
    assert not list(tmp_path.rglob("manifest.json"))
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_stream_is_the_order(tmp_path: Path, prose: Path) -> None:
    """Ray Data delivers, from the start and from the middle, exactly the samples of the order."""
    import ray
    import torch

    from foundray.data.stream.feeder import StaleGeneration, start_feeder
    from foundray.data.stream.leases import MicroBatchSource, validation_plan
    from foundray.data.stream.plan import plan_for
    from foundray.model.model import Batch

    spec_path = spec_of(tmp_path, [{"path": str(prose)}])
    prepared, spec = foundray.prepare(spec_path), load_spec(spec_path)
    plan = plan_for(prepared, spec)
    rows = {
        s.file: pq.read_table(Path(prepared.folder.path) / s.file).column("tokens").to_pylist()
        for s in prepared.manifest.shards
    }

    def expected(plan, micro_batch: int) -> list[list[int]]:
        names = plan.order().ids(plan.addresses(micro_batch, 1))
        return [rows[f"shards/{name.split(':')[0]}.parquet"][int(name.split(":")[1])] for name in names]

    def tokens_of(payload: bytes) -> list[list[int]]:
        """Samples of a micro-batch: the input, and the last target."""
        batch = Batch.load(payload, torch.device("cpu"))
        lengths, target = batch.valid.sum(1).tolist(), batch.targets["lm_head"][0]
        return [[*batch.x[row, :n].tolist(), int(target[row, n - 1])] for row, n in enumerate(lengths)]

    feeder = start_feeder()
    for first, steps in ((0, 700), (999_990, 5)):  # 700 steps of 5 cross several parcels
        generation = ray.get(feeder.begin.remote(1))
        source = MicroBatchSource(feeder, generation, "train", plan, 5, first, (first + steps) * 5)
        for step in range(first, first + steps):
            seen = [(position, tokens_of(payload)) for position, payload in source.step(step)]
            assert [position for position, _ in seen] == list(range(step * 5, step * 5 + 5))
            assert all(tokens == expected(plan, position) for position, tokens in seen)
    held_out = validation_plan(plan, coupled=False)
    count = -(-held_out.order().validation_samples // 32)
    source = MicroBatchSource(feeder, generation, "validation", held_out, count, 0, count)
    seen = [(position, tokens_of(payload)) for position, payload in source.step(0)]
    assert sum(len(tokens) for _, tokens in seen) == held_out.order().validation_samples
    assert all(tokens == expected(held_out, position) for position, tokens in seen)
    ray.get(feeder.begin.remote(1))
    with pytest.raises(StaleGeneration):
        source.close()
