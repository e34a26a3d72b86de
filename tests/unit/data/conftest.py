"""Prepared pictures."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml
from PIL import Image
from tests.unit.data.shards import shard_of

from foundray.data.prepare.manifest import Prepared
from foundray.spec import Spec
from foundray.spec.loading import parse_spec
from foundray.testing.specs import small_spec


def png(shade: int) -> bytes:
    Image.new("L", (8, 8), shade).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Spec, Prepared]:
    """Six pictures, made into a shard as in `prepare`."""
    (tmp_path / "raw").mkdir()
    for shade in range(6):
        (tmp_path / "raw" / f"{shade}.png").write_bytes(png(shade))
    fields = small_spec(
        tmp_path / "raw", tmp_path / "runs", data__sources=[{"path": str(tmp_path / "raw"), "format": "files"}],
        data__modality={"kind": "image", "size": 8, "patch": 4, "channels": 1}, objective={"kind": "next_patch"},
        model__context=4, train__micro_batch_size=2,
    )  # fmt: skip
    spec = parse_spec(yaml.safe_dump(fields), "test")
    return spec, shard_of(spec)
