"""Storage that refuses requests: an object is the old one or the new one, whatever fails. Against a real S3 server."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest
from tests.object_store import CREDENTIALS, ObjectStore, uploads

from foundray.errors import InputError
from foundray.storage import Store

PART = b"x" * (6 << 20)
"""More than S3's smallest part, so that the stream uploads while it is written."""


def test_a_refused_upload_leaves_the_old_object(server: ObjectStore, place: Store) -> None:
    file = place / "x"
    file.write_bytes(b"old")
    for refuses in (uploads, lambda method, path: method == "POST" and "uploadId" in path):  # all of it, or its completion
        server.refuses = refuses
        with pytest.raises(InputError, match=r"cannot be written: .*SLOW_DOWN"):
            file.write_bytes(b"new")
        server.refuses = lambda method, path: False
        gc.collect()
        assert file.read_bytes() == b"old"
    assert not [path for method, path in server.refused if method == "DELETE"]
    file.write_bytes(b"new")
    assert file.read_bytes() == b"new"


def test_a_block_that_fails_leaves_the_old_object_though_parts_are_uploaded(place: Store) -> None:
    file = place / "x"
    file.write_bytes(b"old")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), file.replacing() as stream:
            stream.write(PART)
            stream.write(PART)
            raise error
        del stream
        gc.collect()
        assert file.read_bytes() == b"old"
    with file.replacing() as stream:
        stream.write(PART)
        stream.write(b"end")
    assert file.read_bytes() == PART + b"end"


def test_a_refused_part_leaves_the_old_object(server: ObjectStore, place: Store) -> None:
    file = place / "x"
    file.write_bytes(b"old")
    server.refuses = lambda method, path: "partNumber=2" in path
    with pytest.raises(InputError, match="cannot be written"), file.replacing() as stream:
        for _ in range(3):
            stream.write(PART)
    server.refuses = lambda method, path: False
    gc.collect()
    assert file.read_bytes() == b"old"


def test_a_process_that_ends_with_a_failed_upload_does_not_complete_it(server: ObjectStore, place: Store) -> None:
    (place / "x").write_bytes(b"old")
    script = f"""
from foundray.storage import Store
try:
    with Store.at({server.url(place.name + "/x")!r}).replacing() as stream:
        stream.write(b"x" * {len(PART)})
        raise RuntimeError
except RuntimeError:
    print("ended")
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | CREDENTIALS, capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stdout) == (0, "ended\n"), ended.stderr
    assert (place / "x").read_bytes() == b"old"


def test_what_cannot_be_deleted_is_a_sentence(server: ObjectStore, place: Store) -> None:
    (place / "x").write_bytes(b"old")
    server.refuses = lambda method, path: method == "DELETE"
    with pytest.raises(InputError, match="cannot be written"):
        (place / "x").delete_file()
    server.refuses = lambda method, path: False
    (place / "x").delete_file()
    (place / "x").delete_file()
    assert not (place / "x").exists()
