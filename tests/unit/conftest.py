"""Fixtures of unit tests: a real S3 server, started when the first test asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.object_store import ObjectStore, object_store

from foundray.storage import Store


@pytest.fixture(scope="session")
def server() -> Iterator[ObjectStore]:
    with object_store() as store:
        yield store


@pytest.fixture
def place(server: ObjectStore, request: pytest.FixtureRequest) -> Iterator[Store]:
    path = f"bucket/{request.node.name}"
    yield Store(server.filesystem, path, f"s3://{path}")
    server.refuses = lambda method, path: False
    server.refused.clear()
