"""Plans name their manifest by its digest: they stay small, and other data are not taken for the same."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from tests.unit.data.manifests import manifest

from foundray.data.prepare.manifest import Manifest, Prepared
from foundray.data.stream import manifests
from foundray.data.stream.manifests import KEPT, keep, manifest_of
from foundray.data.stream.plan import plan_for
from foundray.errors import InputError
from foundray.storage import Store
from foundray.testing.specs import make_spec


@pytest.fixture(autouse=True)
def none_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has just been started."""
    monkeypatch.setattr(manifests, "_kept", {})


def written(folder: Path, made: Manifest) -> str:
    """Write a manifest as `prepare` does. Returns its digest, which nobody keeps."""
    (folder / "manifest.json").write_text(made.model_dump_json(indent=1))
    digest = keep(made)
    manifests._kept.clear()
    return digest


def test_another_process_reads_the_manifest_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = written(tmp_path, made := manifest([[500, 300], [200]]))
    assert manifest_of(str(tmp_path), digest) == made
    monkeypatch.setattr(Prepared, "open", None)
    assert manifest_of(str(tmp_path), digest) == made


def test_data_that_were_prepared_again_are_refused(tmp_path: Path) -> None:
    digest = written(tmp_path, manifest([[500]]))
    written(tmp_path, manifest([[501]]))
    for _ in range(2):
        with pytest.raises(InputError, match=f"the data in {tmp_path} were prepared again since"):
            manifest_of(str(tmp_path), digest)


def test_a_manifest_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.json cannot be read"):
        manifest_of(str(tmp_path), "0" * 64)


def test_a_process_keeps_few_manifests() -> None:
    digests = [keep(manifest([[rows]])) for rows in range(2, 12)]
    assert list(manifests._kept) == digests[-KEPT:]


@pytest.mark.parametrize("shards", [1, 1000])
def test_a_plan_is_small_however_many_shards_there_are(shards: int) -> None:
    plan = plan_for(Prepared(Store.at("nowhere"), manifest([[9] * shards])), make_spec())
    assert len(pickle.dumps(plan)) < 1500
    assert len(plan.order().manifest.shards) == shards
