"""Data by URL and from a mirror: wrong data is refused and leaves nothing behind, and correct data is left alone."""

from __future__ import annotations

import gzip
import hashlib
import re
import threading
import tomllib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.repository import REPOSITORY
from tests.unit.files import archive

import foundray
from foundray.cli import _run
from foundray.errors import InputError
from foundray.examples import Example, every, find
from foundray.fetching import load_data_set
from foundray.spec.loading import load_spec

CONTENT = b"some data\n" * 1000


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and its URL on a server on this machine."""
    (folder := tmp_path / "served").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def example(folder: Path, url: str, content: bytes = CONTENT, name: str = "a.txt", **fields: Any) -> str:
    entry = {"url": url, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), **fields}
    (made := folder / "example").mkdir(exist_ok=True)
    described = {"set": "some-set", "origin": "this test", "licence": "free", "files": {name: entry}}
    (made / "data.yaml").write_text(yaml.safe_dump(described))
    return str(made)


def test_by_url_and_then_nothing_more(served: tuple[Path, str], tmp_path: Path) -> None:
    (served[0] / "a.txt").write_bytes(CONTENT)
    name = example(tmp_path, f"{served[1]}/a.txt")
    folder = foundray.fetch(name, tmp_path / "data")
    assert [(file.name, file.read_bytes()) for file in folder.iterdir()] == [("a.txt", CONTENT)]
    assert load_data_set(tmp_path / "data" / ".example.yaml").licence == "free"
    (served[0] / "a.txt").unlink()
    lines: list[str] = []
    foundray.fetch(name, tmp_path / "data", report=lines.append)
    assert lines[0].endswith("a.txt: there")
    (folder / "a.txt").write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match=r"a\.txt could not be fetched to .*: (File )?[Nn]ot [Ff]ound"):
        foundray.fetch(name, tmp_path / "data")


def test_other_content_is_refused_and_leaves_nothing(served: tuple[Path, str], tmp_path: Path) -> None:
    name = example(tmp_path, f"{served[1]}/a.txt")
    (served[0] / "a.txt").write_bytes(CONTENT[::-1])
    with pytest.raises(InputError, match=f"it has the SHA-256 .* instead of {hashlib.sha256(CONTENT).hexdigest()}"):
        foundray.fetch(name, tmp_path / "data")
    (served[0] / "a.txt").write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match=r"it has 9,999 bytes instead of 10,000; nothing was kept"):
        foundray.fetch(name, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_from_a_mirror_by_either_name(tmp_path: Path) -> None:
    (mirror := tmp_path / "mirror" / "some-set").mkdir(parents=True)
    name = example(tmp_path, "https://nowhere.invalid/original.txt")
    with pytest.raises(InputError, match=r"the mirror has no .*some-set/a\.txt"):
        foundray.fetch(name, tmp_path / "data", mirror.parent)
    (mirror / "original.txt").write_bytes(CONTENT)
    assert (foundray.fetch(name, tmp_path / "data", mirror.parent) / "a.txt").read_bytes() == CONTENT


def test_a_file_that_was_zipped_again_is_known_by_its_content(tmp_path: Path) -> None:
    (mirror := tmp_path / "mirror" / "some-set").mkdir(parents=True)
    name = example(tmp_path, "https://nowhere.invalid/a.gz", name="a.gz", of="unzipped")
    for level in (1, 9):
        (mirror / "a.gz").write_bytes(gzip.compress(CONTENT, level))
        foundray.fetch(name, tmp_path / f"data{level}", mirror.parent)
    for broken, reason in ((gzip.compress(CONTENT)[:-20], "instead of"), (b"no gzip", "cannot be unzipped")):
        (mirror / "a.gz").write_bytes(broken)
        with pytest.raises(InputError, match=reason):
            foundray.fetch(name, tmp_path / "data", mirror.parent)
    (mirror / "a.gz").write_bytes(gzip.compress(bytes(10**8), 9))
    with pytest.raises(InputError, match="it, unzipped, has more than 10,000 bytes"):
        foundray.fetch(name, tmp_path / "data", mirror.parent)


def test_an_archive_that_was_packed_again_is_known_by_its_members(tmp_path: Path) -> None:
    listing = "".join(f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n" for name in ("a.wav", "b.wav"))
    sha = hashlib.sha256(listing.encode()).hexdigest()
    fields = {"name": "r.tar", "of": "members", "members": "*.wav", "bytes": 10, "sha256": sha}
    name = example(tmp_path, "https://nowhere.invalid/r.tar", **fields)
    (mirror := tmp_path / "mirror" / "some-set").mkdir(parents=True)
    archive(mirror / "r.tar", {"top/r/b.wav": b"b.wav", "top/r/a.wav": b"a.wav", "top/readme": b"more"})
    foundray.fetch(name, tmp_path / "data", mirror.parent)
    archive(mirror / "r.tar", {"top/r/b.wav": b"b.wav", "top/r/a.wav": b"other"})
    with pytest.raises(InputError, match="the files in it have the SHA-256"):
        foundray.fetch(name, tmp_path / "again", mirror.parent)


@pytest.mark.parametrize("name", ["../a.txt", "/a.txt", "a/b.txt", "..", ".hidden"])
def test_names_cannot_lead_elsewhere(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a plain file name"):
        foundray.fetch(example(tmp_path, "https://nowhere.invalid/a.txt", name=name), tmp_path)


def test_mistakes_are_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no example 'genom' .*did you mean 'genome'\?\); there are: .*shakespeare"):
        foundray.fetch("genom")
    with pytest.raises(InputError, match=r"files\.a\.txt\.url: string should match pattern"):
        foundray.fetch(example(tmp_path, "file:///etc/passwd"), tmp_path)


@pytest.mark.parametrize("example", every(), ids=lambda example: example.name)
def test_examples_read_what_is_fetched(example: Example) -> None:
    of = [example, *map(find, example.data.uses)]
    fetched = [f"data/{one.name}/{name}" for one in of for name in one.data.files]
    spec = example.folder / "spec.yaml"
    for source in load_spec(spec).data.sources if spec.exists() and not example.data.how else []:
        assert any(Path(path).match(source.path) for path in fetched), source.path


def test_an_installation_has_every_example() -> None:
    """Under the prefix of the environment: the wheel takes what pyproject.toml names."""
    files = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    packed = {place: {file for pattern in patterns for file in REPOSITORY.glob(pattern)} for place, patterns in files.items()}
    for example in every():
        there = {file for file in example.folder.iterdir() if file.is_file()}
        assert packed.pop(f"share/foundray/examples/{example.name}") == there
    assert not packed


def test_every_example_says_where_its_data_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    """By files, by other examples' files, or by a sentence that names what makes it, and is there."""
    folders = {folder.name for folder in (REPOSITORY / "examples").iterdir() if folder.is_dir()}
    assert {example.name for example in every()} == folders
    assert _run(["fetch"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in listed} == folders
    for example in every():
        for script in re.findall(r"examples/\S+\.py", example.how):
            assert (REPOSITORY / script).exists(), script


def test_data_of_other_examples_is_fetched_in_its_place(tmp_path: Path) -> None:
    name = example(tmp_path, "https://nowhere.invalid/a.txt")
    (mirror := tmp_path / "mirror" / "some-set").mkdir(parents=True)
    (mirror / "a.txt").write_bytes(CONTENT)
    (user := tmp_path / "user").mkdir()
    described = {"set": "none", "origin": "this test", "licence": "free", "uses": [name]}
    (user / "data.yaml").write_text(yaml.safe_dump(described))
    foundray.fetch(str(user), tmp_path / "data", mirror.parent)
    assert (tmp_path / "data" / "example" / "a.txt").read_bytes() == CONTENT
    (user / "data.yaml").write_text(yaml.safe_dump({**described, "uses": [], "how": "sing it"}))
    lines: list[str] = []
    foundray.fetch(str(user), tmp_path / "data", report=lines.append)
    assert lines == ["user: sing it"]
    (user / "data.yaml").write_text(yaml.safe_dump({**described, "uses": []}))
    with pytest.raises(InputError, match="nobody knows where its data comes from"):
        foundray.fetch(str(user), tmp_path / "data")
