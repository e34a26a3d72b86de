"""Writing is all or nothing, and a failure is one sentence."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import fs

from foundray.errors import InputError
from foundray.storage import Store
from foundray.urls import canonical


def test_write_read_list_delete(tmp_path: Path) -> None:
    store = Store.at(tmp_path) / "a" / "b.txt"
    store.write_text("one")
    store.write_text("two")
    assert store.read_text() == "two"
    assert [child.name for child in Store.at(tmp_path / "a").children()] == ["b.txt"]
    assert Store.at(tmp_path / "none").children() == []
    (Store.at(tmp_path) / "a").delete_folder()
    assert not store.exists()


def test_a_folder_that_another_process_makes_meanwhile_can_be_listed(tmp_path: Path) -> None:
    """pyarrow's own listing fails about once per hundred attempts here."""
    folder = str(tmp_path / "run")
    toggle = f"import os\nprint(flush=True)\nwhile True: os.mkdir({folder!r}), os.rmdir({folder!r})"
    store = Store(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "run", "run")
    with subprocess.Popen([sys.executable, "-c", toggle], stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline()
        assert all(store.children() == [] and store.files() == {} for _ in range(5_000))
        other.kill()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    store = Store.at(tmp_path) / "x"
    store.write_text("old")
    with pytest.raises(RuntimeError), store.replacing() as stream:
        stream.write(b"half")
        raise RuntimeError
    assert store.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_full_disk_is_one_sentence(tiny_disk: Path) -> None:
    store = Store.at(tiny_disk) / "x"
    with pytest.raises(InputError, match="the disk is full"):
        store.write_bytes(b"x" * 200_000)
    assert list(tiny_disk.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "inside", Path("/proc/foundray")):
        with pytest.raises(InputError, match="cannot be written"):
            Store.at(place).check_writable()
    with pytest.raises(InputError, match="cannot be opened as storage"):
        Store.at("nonsense://x/y")


def test_errors_keep_their_reason(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read") as caught:
        (Store.at(tmp_path) / "none").read_bytes()
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOENT


def test_urls_and_remote_filesystems(tmp_path: Path) -> None:
    assert (Store.at(f"file://{tmp_path}") / "x").url == f"file://{tmp_path}/x"
    # pyarrow's in-memory file system stands for an object store: whole files, no temporary names.
    remote = Store(fs._MockFileSystem(), "bucket/run", "mock://bucket/run")
    (remote / "a").write_text("content")
    assert (remote / "a").read_text() == "content"
    assert not remote.is_local
    assert [child.url for child in remote.children()] == ["mock://bucket/run/a"]
    assert (remote / "a").parent.url == "mock://bucket/run"


ODD = [
    "with space",
    "hash#1",
    "what?",
    "?x=y",
    "per%41cent",
    "100%",
    "ünï",
    "i[1]",
    "a+b&c=d",
    "x@y:z",
    "{a,b}",
    "new\nline",
    "🙂",
]


@pytest.mark.parametrize("name", ODD)
def test_any_name_can_be_opened_by_its_url(name: str, tmp_path: Path) -> None:
    for place in (Store.at(tmp_path), Store.at(f"file://{tmp_path}")):
        store = place / name / f"{name}.txt"
        store.write_text(name)
        again = Store.at(store.url)
        assert (again.path, again.url, again.read_text()) == (store.path, store.url, name)
        assert (again.name, Store.at(again.parent.url)) == (f"{name}.txt", again.parent)
        assert [child.path for child in place.children()] == [f"{tmp_path}/{name}"]
    bucket = Store.at("s3://bucket/runs?region=us-east-1")
    store = bucket / name / "x"
    assert Store.at(store.url).path == store.path == f"bucket/runs/{name}/x"
    assert store.url.endswith("/x?region=us-east-1"), "a query stays at the end"
    assert (store.parent.parent.path, store.parent.parent.url) == (bucket.path, bucket.url)


def test_urls_may_be_written_plainly_and_plain_ones_stay(tmp_path: Path) -> None:
    (tmp_path / "a ü#1.txt").write_text("x")
    assert Store.at(f"file://{tmp_path}/a ü#1.txt").read_text() == "x"
    assert Store.at(f"file://{tmp_path}/a%20%C3%BC%231.txt").read_text() == "x"
    for plain in ("s3://bucket/runs/a!$&'()*+,;=:@b~-._?region=us-east-1", f"file://{tmp_path}/x"):
        assert Store.at(plain).url == plain
    assert Store.at(f"{tmp_path}/100%.txt").url == f"{tmp_path}/100%.txt"
    assert Store.at("~nosuchuser/x").path == f"{Path.cwd()}/~nosuchuser/x"


def test_names_that_are_not_utf8_are_no_children_of_ours(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")).touch()
    assert [child.name for child in Store.at(tmp_path).children()] == ["a"]
    assert Store.at(tmp_path).files() == {"a": 0} and Store.at(tmp_path / "none").files() == {}
    with pytest.raises(InputError, match="holds a zero byte"):
        Store.at("a\0b")


def test_a_place_has_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real x").mkdir()
    (tmp_path / "link").symlink_to("real x")
    ways = ["real x", "./link", str(tmp_path / "link"), f"file://{tmp_path}/real%20x", f"FILE://{tmp_path}/link/"]
    assert {canonical(way) for way in ways} == {f"{tmp_path}/real x"}
    here = "s3://bucket/a b?region=us-east-1&endpoint_override=127.0.0.1:9000"
    assert canonical(here) == "s3://bucket/a%20b?endpoint_override=127.0.0.1:9000", "another server is another place"
    assert canonical("S3://bucket/a%20%62") == canonical("s3://bucket/a b?region=x") == "s3://bucket/a%20b"


@pytest.mark.parametrize(
    "url", ["s3://AKIA:wJal%2Fr@bucket/runs", "s3://AKIA:wJal/r@bucket/runs", "s3://bucket/runs?secret_key=wJal"]
)
def test_a_secret_in_a_url_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(InputError, match="holds a secret") as refused:
        Store.at(url)
    assert "wJal" not in str(refused.value)
