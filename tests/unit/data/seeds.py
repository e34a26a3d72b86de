"""Small healthy files of every supported format, as bytes, from which damaged ones are made."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import zstandard
from PIL import Image

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "while", "größer", "東京", "😀", "waits"]


@dataclass(frozen=True)
class Seed:
    """A healthy file, and its reader."""

    name: str
    make: Callable[[], bytes]
    source: dict[str, Any] = field(default_factory=dict)
    """Fields of its source, apart from the path."""
    modality: tuple[str, dict[str, Any]] | None = None
    """Kind and options of a modality with its own files; None for documents."""
    length: int = 4
    """Units per sample."""


def sentence(number: int) -> str:
    return " ".join(WORDS[(number + k) % len(WORDS)] for k in range(3 + number % 9))


def lines() -> bytes:
    return "\n".join(sentence(n) for n in range(40)).encode() + b"\n"


def jsonl() -> bytes:
    return b"".join(json.dumps({"id": n, "text": sentence(n), "meta": {"a": [n, None]}}).encode() + b"\n" for n in range(30))


def csv() -> bytes:
    rows = ["id,text,other", *(f'{n},"{sentence(n)}, ""so"" it\nsaid",{n / 7}' for n in range(20))]
    return "\r\n".join(rows).encode()


def parquet() -> bytes:
    table = pa.table({"text": [sentence(n) for n in range(60)], "number": list(range(60))})
    pq.write_table(table, sink := io.BytesIO(), row_group_size=20, write_page_checksum=True)
    return sink.getvalue()


def fasta() -> bytes:
    return b"".join(b">seq%d\n%s\n%s\n" % (n, b"ACGTN" * (n + 3), b"ttgacc" * 4) for n in range(8))


def conllu() -> bytes:
    rows = [
        "1\tEs\tes\tPRON\t_\t_\t2\tnsubj\t_\t_",
        "2\tregnet\tregnen\tVERB\t_\t_\t0\troot\t_\tSpaceAfter=No",
        "3\t.\t.\tPUNCT\t_\t_\t2\tpunct\t_\t_",
    ]
    return "\n".join(["# newdoc id = a", "# text = Es regnet.", *rows, "\n"]).encode() * 6


def tar() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for n in range(5):
            for ending, content in (("txt", sentence(n)), ("json", json.dumps({"text": sentence(n + 9)}))):
                member = tarfile.TarInfo(f"part/{n}-{'long' * 30 if n == 3 else ''}.{ending}")
                member.size = len(content.encode())
                archive.addfile(member, io.BytesIO(content.encode()))
    return sink.getvalue()


def picture(kind: str) -> Callable[[], bytes]:
    def make() -> bytes:
        pixels = np.arange(20 * 24 * 3, dtype=np.uint32).reshape(20, 24, 3) * 7 % 256
        Image.fromarray(pixels.astype(np.uint8)).save(sink := io.BytesIO(), kind)
        return sink.getvalue()

    return make


def idx() -> bytes:
    return bytes.fromhex("00000803 00000005 00000008 00000008") + bytes(range(64)) * 5


def sound(kind: str, subtype: str | None = None) -> Callable[[], bytes]:
    def make() -> bytes:
        samples = np.sin(np.arange(4000) / 5) * np.linspace(0, 0.9, 4000)
        soundfile.write(sink := io.BytesIO(), samples, 8000, format=kind, subtype=subtype)
        return sink.getvalue()

    return make


def series_csv() -> bytes:
    steps = np.arange(60)
    return "\n".join(
        ["time,load,heat", *(f"2026-01-{1 + n // 24:02d} {n % 24:02d}:00,{n * 1.5},{n % 7}" for n in steps)]
    ).encode()


def series_parquet() -> bytes:
    pq.write_table(
        pa.table({"load": np.arange(60.0), "heat": np.arange(60) % 7}), sink := io.BytesIO(), write_page_checksum=True
    )
    return sink.getvalue()


def series_ts() -> bytes:
    case = ":".join(",".join(f"{(k * d) % 5 + 0.5}" for k in range(20)) for d in (1, 2))
    return ("@problemName p\n@classLabel true a b\n@data\n" + f"{case}:a\n{case}:b\n" * 4).encode()


def npz() -> bytes:
    steps = {"states": np.ones((40, 3)), "actions": np.ones((40, 2)), "rewards": np.arange(40.0), "lengths": np.array([25, 15])}
    np.savez_compressed(sink := io.BytesIO(), **steps)  # type: ignore[arg-type]
    return sink.getvalue()


def episodes() -> bytes:
    rows = [{"states": [[0.5, 1.0, 2.0]] * n, "actions": [[0.0, 1.0]] * n, "rewards": [1.0] * n} for n in (9, 4, 12)]
    pq.write_table(pa.Table.from_pylist(rows), sink := io.BytesIO(), write_page_checksum=True)
    return sink.getvalue()


def _zstd() -> bytes:
    return zstandard.compress(lines())


BY_LINE = {"format": "text", "documents": "line"}
IMAGE = ("image", {"size": 8, "patch": 4})
AUDIO = ("audio", {"rate": 8000, "bins": 8})
STEPS = ("trajectory", {"state_width": 3, "action_width": 2})
FILES = {"format": "files"}

SEEDS = [
    Seed("a.txt", lines, {"format": "text"}),
    Seed("lines.txt", lines, BY_LINE),
    Seed("lines.txt.gz", lambda: gzip.compress(lines(), mtime=0), BY_LINE),
    Seed("lines.txt.xz", lambda: lzma.compress(lines()), BY_LINE),
    Seed("lines.txt.bz2", lambda: bz2.compress(lines()), BY_LINE),
    Seed("lines.txt.zst", _zstd, BY_LINE),
    Seed("a.jsonl", jsonl, {"format": "jsonl"}),
    Seed("a.json", lambda: json.dumps([{"text": sentence(n)} for n in range(9)]).encode(), {"format": "jsonl"}),
    Seed("a.csv", csv, {"format": "csv"}),
    Seed("a.parquet", parquet, {"format": "parquet"}),
    Seed("a.fasta", fasta, {"format": "fasta"}),
    Seed("a.conllu", conllu, {"format": "conllu"}),
    Seed("a.tar", tar, {"format": "webdataset"}),
    Seed("a.tar.gz", lambda: gzip.compress(tar(), mtime=0), {"format": "webdataset"}),
    Seed("a.png", picture("png"), FILES, IMAGE),
    Seed("a.jpg", picture("jpeg"), FILES, IMAGE),
    Seed("a.gif", picture("gif"), FILES, IMAGE),
    Seed("a.tiff", picture("tiff"), FILES, IMAGE),
    Seed("a.webp", picture("webp"), FILES, IMAGE),
    Seed("a.bmp", picture("bmp"), FILES, IMAGE),
    Seed("a-idx3-ubyte", idx, FILES, IMAGE),
    Seed("a.wav", sound("WAV"), FILES, AUDIO),
    Seed("a.flac", sound("FLAC"), FILES, AUDIO),
    Seed("a.ogg", sound("OGG", "VORBIS"), FILES, AUDIO),
    Seed("a.mp3", sound("MP3"), FILES, AUDIO),
    Seed("series.csv", series_csv, FILES, ("series", {"patch": 2})),
    Seed("series.parquet", series_parquet, FILES, ("series", {"patch": 2})),
    Seed("series.ts", series_ts, FILES, ("series", {"patch": 2})),
    Seed("a.npz", npz, FILES, STEPS, 6),
    Seed("episodes.parquet", episodes, FILES, STEPS, 6),
]
