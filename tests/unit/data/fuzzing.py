"""A process that reads damaged copies of healthy files, so that its parent notices a hang or a crash.

`python -m tests.unit.data.fuzzing FOLDER EXAMPLES NAME...` prints a line per file: its name, and a summary as JSON or what was
raised. FOLDER holds what it read last of each. One process reads all files, since most of its time would be imports.
"""

from __future__ import annotations

import json
import resource
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.unit.data.seeds import SEEDS, Seed

from foundray.contract import Values, load_modality
from foundray.data.files.files import RawFile
from foundray.data.prepare.sources import BadRow, Document, read_documents, read_rows
from foundray.spec import SourceConfig

PLACE = st.floats(0, 1, exclude_max=True)
"""Position in a file, as a fraction of its length."""
SPAN = st.integers(1, 700)
"""Bytes."""
PIECES = st.sampled_from(
    [b"", b"\0", b"\xff", b"\n", b"\r", b'"', b"'", b",", b":", b"[", b"\x00" * 512, b"\xff\xfe", b"\xef\xbb\xbf", b"nan",
     b"1e999", b"-1", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80" * 9, b"{" * 300, b"9" * 5000, b"\xed\xa0\x80", b"?",
     b"@data\n"]
)  # fmt: skip
EDIT = st.one_of(
    st.tuples(st.just("flip"), PLACE, st.integers(0, 7)),
    st.tuples(st.just("insert"), PLACE, PIECES),
    st.tuples(st.just("replace"), PLACE, PIECES),
    st.tuples(st.just("delete"), PLACE, SPAN),
    st.tuples(st.just("double"), PLACE, SPAN),
    st.tuples(st.just("zero"), PLACE, SPAN),
    st.tuples(st.just("cut"), PLACE, st.just(0)),
)


def damaged(content: bytes, edits: list[tuple[str, float, Any]]) -> bytes:
    for kind, place, what in edits:
        at = int(place * len(content))
        before, after = content[:at], content[at:]
        match kind:
            case "flip":
                content = before + bytes([after[0] ^ (1 << what)]) + after[1:] if after else content
            case "insert":
                content = before + what + after
            case "replace":
                content = before + what + after[len(what) :]
            case "delete":
                content = before + after[what:]
            case "double":
                content = before + after[:what] + after
            case "zero":
                content = before + bytes(min(what, len(after))) + after[what:]
            case "cut":
                content = before
    return content


def read(path: Path, seed: Seed) -> Iterator[Document | BadRow | dict[str, Any]]:
    file = RawFile(str(path), path.stat().st_size, 0, seed.source["format"])
    source = SourceConfig(path=str(path), **seed.source)
    if seed.modality is None:
        yield from read_documents(file, source)
        return
    modality = load_modality(*seed.modality)
    assert isinstance(modality, Values)
    for row in read_rows(file, source, modality, seed.length):
        if not isinstance(row, BadRow):  # what passes can be trained on
            assert np.isfinite(modality.units(row, seed.length, np.random.default_rng(0)).x).all()
        yield row


def summary(name: str, folder: str, examples: int) -> dict[str, int]:
    """Numbers of damaged files, of what was read of them, and of what could not be; and the process's memory."""
    seed = next(seed for seed in SEEDS if seed.name == name)
    content, path, counts = seed.make(), Path(folder) / name, {"read": 0, "rows": 0, "bad": 0}

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.lists(EDIT, min_size=1, max_size=4))
    def survives(edits: list[tuple[str, float, Any]]) -> None:
        mutated = damaged(content, edits)
        path.write_bytes(mutated)
        found = list(read(path, seed))
        for row in found:
            if isinstance(row, BadRow):
                assert row.reason and row.lost >= 0 and row.unit, row
        assert found or not mutated.strip(), "nothing came out, and nothing was said"
        counts["read"] += 1
        counts["rows"] += sum(not isinstance(row, BadRow) for row in found)
        counts["bad"] += sum(isinstance(row, BadRow) for row in found)

    survives()
    return {**counts, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def main(folder: str, examples: str, *names: str) -> None:
    for name in names:
        try:
            found: dict[str, int] | str = summary(name, folder, int(examples))
        except Exception:
            found = traceback.format_exc()
        print(json.dumps([name, found]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
