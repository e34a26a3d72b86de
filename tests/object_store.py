"""A real S3 server (moto) in this process, which can refuse chosen requests for a while."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from pyarrow import fs

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "2",
}  # fmt: skip
"""Environment variables for the server's clients."""
REFUSED = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'

Refuses = Callable[[str, str], bool]


class ObjectStore:
    """S3 at `127.0.0.1:port`, with an empty bucket `bucket`."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.app = DomainDispatcherApplication(create_backend_app)
        self.refuses: Refuses = lambda method, path: False
        """Whether a request of this method and path (with its query) gets a 503."""
        self.refused: list[tuple[str, str]] = []
        self.server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.query = f"endpoint_override=127.0.0.1:{self.server.server_port}&scheme=http&region=us-east-1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.filesystem = fs.S3FileSystem(
            access_key="testing", secret_key="testing", region="us-east-1", scheme="http", allow_bucket_creation=True,
            endpoint_override=f"127.0.0.1:{self.server.server_port}",
            connect_timeout=60, request_timeout=60, retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
        )  # fmt: skip
        self.filesystem.create_dir("bucket")

    def url(self, path: str) -> str:
        return f"s3://bucket/{path}?{self.query}"

    def _answer(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], f"{environ['PATH_INFO']}?{environ.get('QUERY_STRING', '')}"
        if not self.refuses(method, path):
            return list(self.app(environ, start))
        self.refused.append((method, path))
        if environ.get("HTTP_TRANSFER_ENCODING") == "chunked":
            while environ["wsgi.input"].read(1 << 20):
                pass
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(REFUSED)))])
        return [REFUSED]

    def names(self, folder: str = "bucket") -> list[str]:
        """Names of all objects below, without folders."""
        found = self.filesystem.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
        return sorted(info.path.removeprefix(folder + "/") for info in found if info.type == fs.FileType.File)


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    store = ObjectStore()
    try:
        yield store
    finally:
        store.server.shutdown()


def uploads(method: str, path: str) -> bool:
    """Requests that write content, but not those that make a folder or that delete many objects."""
    place, _, query = path.partition("?")
    return (method == "PUT" and not place.endswith("/")) or (method == "POST" and "delete" not in query)


def deletes(method: str, path: str) -> bool:
    return method == "DELETE" or (method == "POST" and "delete" in path.partition("?")[2])
