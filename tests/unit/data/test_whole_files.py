"""Whether prepared files are all there and whole is found out with few requests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.data.manifests import manifest

from foundray.data.prepare.manifest import Prepared
from foundray.data.prepare.prepare import _finished
from foundray.data.prepare.shard import Unit
from foundray.errors import InputError
from foundray.storage import Store


def test_files_are_checked_by_one_listing_per_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = manifest([[9] * 500])
    (tmp_path / "shards").mkdir()
    for shard in made.shards:
        (tmp_path / shard.file).write_bytes(b"x")
    looks: list[str] = []
    for name in ("info", "files"):
        method = getattr(Store, name)
        monkeypatch.setattr(Store, name, lambda self, method=method: (looks.append(self.path), method(self))[1])
    prepared = Prepared(Store.at(tmp_path), made)
    prepared.check_files()
    assert looks == [str(tmp_path / "shards")]
    (tmp_path / made.shards[7].file).unlink()
    with pytest.raises(InputError, match=r"0-00007.parquet is missing; delete"):
        prepared.check_files()


def test_finished_units_are_those_with_a_record_and_a_whole_shard(tmp_path: Path) -> None:
    made = manifest([[9, 9, 9, 0]]).shards
    for folder in ("shards", "units"):
        (tmp_path / folder).mkdir()
    for shard in (made[0], made[1], made[3]):
        (tmp_path / "units" / f"{Path(shard.file).stem}.json").write_text(shard.model_dump_json())
    (tmp_path / made[0].file).write_bytes(b"x")
    (tmp_path / made[1].file).write_bytes(b"torn")
    units = [Unit(f"0-{index:05d}", 0, ()) for index in range(4)]
    assert _finished(Store.at(tmp_path), units) == {"0-00000": made[0], "0-00003": made[3]}, "one without samples has no file"
    assert _finished(Store.at(tmp_path / "none"), units) == {}
