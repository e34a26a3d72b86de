"""What a dry run says of a spec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from foundray.inspection.describe import derived
from foundray.spec.loading import parse_spec
from foundray.testing.specs import small_spec


def memory(folder: Path, **changes: Any) -> str:
    """The line on a worker's memory."""
    (text := folder / "text.txt").write_text("some text " * 1000)
    spec = parse_spec(yaml.safe_dump(small_spec(text, folder / "runs", **changes)), "test")
    return str(derived(spec)["memory per worker, of 1"])


def test_memory_counts_and_names_what_saves_it(tmp_path: Path) -> None:
    whole, saving = memory(tmp_path), memory(tmp_path, train__recompute="selective", train__loss_chunk=8)
    assert whole.endswith(" activations")
    assert saving.endswith(" activations (train.recompute: selective, train.loss_chunk: 8)")
    assert saving.partition(", and about ")[0] == whole.partition(", and about ")[0]
    assert saving.removesuffix(" (train.recompute: selective, train.loss_chunk: 8)") != whole
