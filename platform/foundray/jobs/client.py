"""Client of a cluster's job server, over HTTP. Every error is one sentence."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from foundray.cluster.causes import raised_in
from foundray.cluster.connect import enter_cluster
from foundray.cluster.head import HOW_TO_GIVE, token_source
from foundray.cluster.local.cluster import LocalCluster
from foundray.errors import InputError, RunFailed
from foundray.storage import redacted
from foundray.wording.sentences import plain

ANSWER_SECONDS = 10.0
"""Longest time until a cluster accepts a connection."""
UPLOAD_SECONDS = 60.0
"""Longest time until it answers a request that it has received."""
QUIET_SECONDS = 1.0
URL = "RAY_API_SERVER_ADDRESS"
"""Ray's own environment variable for the URL where jobs are submitted."""
LOOK_SECONDS = 0.5
LOOKS = 6
"""Consecutive looks that must agree whether a job's node is alive: a head that has just come back knows only some nodes."""
DEATH_SECONDS = 90.0
"""Longest time until a cluster notices that a job's node is gone."""

_Answer = TypeVar("_Answer")


def cluster_url(given: str | None) -> str:
    """Return `given`, else the URL in RAY_API_SERVER_ADDRESS, else that of the cluster on this machine. Raises InputError."""
    if not (url := given or os.environ.get(URL)):
        try:
            cluster = LocalCluster()
            if not cluster.has_dashboard:
                raise InputError(f"the cluster in {cluster.folder} was started without a dashboard, so it takes no jobs")
            return cluster.url
        except InputError:
            raise InputError(
                f"which cluster? Give its dashboard's URL with --cluster http://HEAD:8265 or {URL}, or start one on this "
                "machine with `foundray cluster up --local`"
            ) from None
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise InputError(
            f"--cluster {redacted(url)}: give the URL of the cluster's dashboard, such as http://HEAD:8265, without a user or "
            f"password; for the token, {HOW_TO_GIVE}"
        )
    return url.rstrip("/")


class Refused(RunFailed):
    """A cluster's job server refused a request."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status
        """The HTTP status."""


class Client:
    """Ray's job client, with time limits and errors of one sentence."""

    def __init__(self, url: str):
        """Connect. Raises InputError if no cluster of this Ray version answers, or if it rejects our token."""
        self.url = url
        _pass_by_proxies(urllib.parse.urlsplit(url).hostname or "")
        _check_reachable(url)
        enter_cluster(url)
        os.environ[URL] = url  # takes precedence over RAY_ADDRESS, which Ray would prefer to its argument
        import ray
        from ray._private.authentication.authentication_utils import is_token_auth_enabled
        from ray.exceptions import AuthenticationError

        try:
            self.ray = _job_client(url)  # this fetches the version
            there = self.ray._server_ray_version
        except AuthenticationError:
            given = f"does not accept the token of {token_source()}" if is_token_auth_enabled() else "asks for a token"
            raise InputError(f"the cluster at {url} {given}: {HOW_TO_GIVE}") from None
        except Exception as error:  # other kinds of servers answer in many ways
            raise InputError(f"{url} does not answer as a Ray cluster does: {_first_line(error)}") from None
        if there != ray.__version__:
            raise InputError(f"the cluster at {url} runs Ray {there}, and this is Ray {ray.__version__}: install {there} here")

    def info(self, job: str) -> Any:
        """Ray's record of a job (`status`, `metadata`, `driver_exit_code`, ...); None if there is none. Raises RunFailed."""
        return self.unless_unknown(lambda: self.ray.get_job_info(job))

    def known(self, job: str) -> Any:
        """Ray's record of a job, as `info`. Raises InputError if there is none."""
        if (info := self.info(job)) is None:
            names = sorted(found.submission_id for found in self.ray.list_jobs() if found.submission_id)
            there = f"there are: {', '.join(names)}" if names else "it has none"
            raise InputError(f"the cluster at {self.url} knows no run {job}; {there}")
        return info

    def forget(self, job: str) -> None:
        """Delete the record of a job that is over, unless another command has already done so."""
        self.unless_unknown(lambda: self.ray.delete_job(job))

    def unless_unknown(self, question: Callable[[], _Answer]) -> _Answer | None:
        """Return the answer, or None if the cluster does not know the job."""
        try:
            return question()
        except Refused as error:
            if error.status == 404 or "does not exist" in str(error):
                return None
            raise

    def head(self) -> str:
        """Ray's id of the head node. Raises RunFailed if the cluster does not know it in time."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            for node in self._nodes():
                if node.get("isHeadNode"):
                    return str(node["nodeId"])
            time.sleep(LOOK_SECONDS)
        raise RunFailed(f"the cluster at {self.url} does not know its head yet; try again")

    def runs(self, job: str) -> bool:
        """Whether a job is running. A head that has just come back reports jobs as running that died with its predecessor."""
        deadline, there, gone = time.monotonic() + DEATH_SECONDS, 0, 0
        while (info := self.info(job)) and not info.status.is_terminal() and time.monotonic() < deadline:
            nodes = self._nodes()
            if any(node.get("isHeadNode") for node in nodes):
                lives = info.driver_node_id in (None, *(node["nodeId"] for node in nodes))
                there, gone = (there + 1, 0) if lives else (0, gone + 1)
            if there == LOOKS:
                return True
            if gone == LOOKS:  # a request wakes the head's job manager, which checks its jobs only from its first request on
                self.ray.stop_job(job)
            time.sleep(LOOK_SECONDS)
        return bool(info and not info.status.is_terminal())

    def _nodes(self) -> list[dict[str, Any]]:
        """Living nodes that the cluster knows; none if a head that has just come up cannot answer yet."""
        try:
            nodes = self.ray._do_request("GET", "/nodes?view=summary").json()["data"]["summary"]
        except (ValueError, KeyError):
            return []
        return [node["raylet"] for node in nodes if node["raylet"].get("state") == "ALIVE"]

    def log(self, job: str) -> Iterator[str | None]:
        """Yield a job's output from its beginning until the job ends, and None per second without output.

        Raises RuntimeError if the connection is cut.
        """
        # Ray provides an asynchronous stream. A thread reads it, so that the caller is a plain loop.
        pieces: SimpleQueue[str | Exception | None] = SimpleQueue()

        async def read() -> None:
            async for piece in self.ray.tail_job_logs(job):
                pieces.put(piece)

        def run() -> None:
            try:
                asyncio.run(read())
                pieces.put(None)
            except Exception as error:
                pieces.put(error)

        threading.Thread(target=run, daemon=True).start()
        while True:
            try:
                piece = pieces.get(timeout=QUIET_SECONDS)
            except Empty:
                yield None
                continue
            if piece is None:
                return
            if isinstance(piece, Exception):
                raise RuntimeError(str(piece)) from piece
            yield piece


def _job_client(url: str) -> Any:
    """Ray's job client, with a limit on every wait, and RunFailed in place of the HTTP library's errors."""
    import requests
    from ray.job_submission import JobSubmissionClient

    for talkative in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{talkative}").setLevel(logging.WARNING)

    class Patient(JobSubmissionClient):
        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            try:
                return super()._do_request(*arguments, **{"timeout": (ANSWER_SECONDS, UPLOAD_SECONDS), **options})
            except requests.RequestException as error:
                raise RunFailed(f"the cluster at {url} does not answer ({type(error).__name__}); try again") from None

        def _raise_error(self, response: Any) -> None:
            raise Refused(
                f"the cluster at {url} refused: {_reason(response.text) or response.status_code}", response.status_code
            )

    return Patient(url)


def _check_reachable(url: str) -> None:
    """Raise InputError if nothing accepts a connection. Ray itself would wait forever for an address that drops packets."""
    parts = urllib.parse.urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise InputError(
            f"no cluster answers at {url} ({error.strerror or error}); give its dashboard's URL with --cluster"
        ) from None


def _pass_by_proxies(host: str) -> None:
    """Exempt a cluster on this machine from the environment's proxies: a proxy's loopback address is another machine."""
    if host != "localhost" and not _is_loopback(host):
        return
    exempt = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if host not in exempt.split(","):
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"{exempt},{host}".strip(",")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _reason(text: str) -> str:
    """Why a job server refused, in one line; for a traceback, the exception's message.

    A reason that passed through a node's agent is a traceback inside a traceback, whose last line is a full stop.
    """
    lines = [line for line in text.splitlines() if line.strip(" .")]
    raised = raised_in("\n".join(lines))
    return plain(raised or (lines[-1] if lines else ""))[:300]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
