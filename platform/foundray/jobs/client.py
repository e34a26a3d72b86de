"""A cluster as its job server shows it, by HTTP: what can be wrong with it is told in one sentence."""

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
"""Longest that a cluster may take to answer at all."""
UPLOAD_SECONDS = 60.0
"""Longest that it may take to answer a question once it has it."""
QUIET_SECONDS = 1.0
URL = "RAY_API_SERVER_ADDRESS"
"""Ray's own variable for the place where jobs are submitted."""
LOOK_SECONDS = 0.5
LOOKS = 6
"""So often must a job's node be there, or not, before that is believed: a head that has just come back knows some only."""
DEATH_SECONDS = 90.0
"""Longest that a cluster takes to see that a job's node is gone."""

_Answer = TypeVar("_Answer")


def cluster_url(given: str | None) -> str:
    """The URL given, else that of RAY_API_SERVER_ADDRESS, else that of the cluster on this machine. Raises InputError."""
    if not (url := given or os.environ.get(URL)):
        try:
            return LocalCluster().url
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
    """A cluster's job server did not do what it was asked for."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status
        """Of HTTP."""


class Client:
    """Ray's job client."""

    def __init__(self, url: str):
        """Raises InputError where no cluster of this Ray version answers, or not to us."""
        self.url = url
        _pass_by_proxies(urllib.parse.urlsplit(url).hostname or "")
        _check_there_is_somebody(url)
        enter_cluster(url)
        os.environ[URL] = url  # goes before RAY_ADDRESS, which Ray would prefer to what it is told
        import ray
        from ray._private.authentication.authentication_utils import is_token_auth_enabled
        from ray.exceptions import AuthenticationError

        try:
            self.ray = _job_client(url)  # which asks for the version
            there = self.ray._server_ray_version
        except AuthenticationError:
            given = f"does not accept the token of {token_source()}" if is_token_auth_enabled() else "asks for a token"
            raise InputError(f"the cluster at {url} {given}: {HOW_TO_GIVE}") from None
        except Exception as error:  # what is no cluster answers in many ways
            raise InputError(f"{url} does not answer as a Ray cluster does: {_first_line(error)}") from None
        if there != ray.__version__:
            raise InputError(f"the cluster at {url} runs Ray {there}, and this is Ray {ray.__version__}: install {there} here")

    def info(self, job: str) -> Any:
        """Ray's record of a job (`status`, `metadata`, `driver_exit_code`, ...); None where there is none. Raises RunFailed."""
        return self.unless_unknown(lambda: self.ray.get_job_info(job))

    def known(self, job: str) -> Any:
        """The same. Raises InputError where there is none."""
        if (info := self.info(job)) is None:
            names = sorted(found.submission_id for found in self.ray.list_jobs() if found.submission_id)
            there = f"there are: {', '.join(names)}" if names else "it has none"
            raise InputError(f"the cluster at {self.url} knows no run {job}; {there}")
        return info

    def forget(self, job: str) -> None:
        """Delete the record of a job that is over; another command may have been quicker."""
        self.unless_unknown(lambda: self.ray.delete_job(job))

    def unless_unknown(self, question: Callable[[], _Answer]) -> _Answer | None:
        """None where the job is not known."""
        try:
            return question()
        except Refused as error:
            if error.status == 404 or "does not exist" in str(error):
                return None
            raise

    def head(self) -> str:
        """Ray's id of the head node. Raises RunFailed where it is not known in time."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            for node in self._nodes():
                if node.get("isHeadNode"):
                    return str(node["nodeId"])
            time.sleep(LOOK_SECONDS)
        raise RunFailed(f"the cluster at {self.url} does not know its head yet; try again")

    def runs(self, job: str) -> bool:
        """Whether a job is under way: a head that has just come back takes those for living that died with the one before."""
        deadline, there, gone = time.monotonic() + DEATH_SECONDS, 0, 0
        while (info := self.info(job)) and not info.status.is_terminal() and time.monotonic() < deadline:
            nodes = self._nodes()
            if any(node.get("isHeadNode") for node in nodes):
                lives = info.driver_node_id in (None, *(node["nodeId"] for node in nodes))
                there, gone = (there + 1, 0) if lives else (0, gone + 1)
            if there == LOOKS:
                return True
            if gone == LOOKS:  # an order wakes the head's job manager, which looks after jobs only from its first one on
                self.ray.stop_job(job)
            time.sleep(LOOK_SECONDS)
        return bool(info and not info.status.is_terminal())

    def _nodes(self) -> list[dict[str, Any]]:
        """Those that live, as far as the cluster knows: a head that has just come up may not answer this yet."""
        try:
            nodes = self.ray._do_request("GET", "/nodes?view=summary").json()["data"]["summary"]
        except (ValueError, KeyError):
            return []
        return [node["raylet"] for node in nodes if node["raylet"].get("state") == "ALIVE"]

    def log(self, job: str) -> Iterator[str | None]:
        """A job's output, from its beginning on, as it comes, until it ends; None for every second without any.

        Raises RuntimeError where the connection is cut.
        """
        # Ray gives it as an asynchronous stream; it is read in a thread so that the caller stays a plain loop.
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
    """Ray's, which neither waits without end nor lets through what its HTTP library raises."""
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


def _check_there_is_somebody(url: str) -> None:
    """Raises InputError. Ray itself would wait without end for an address that swallows what is sent there."""
    parts = urllib.parse.urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise InputError(
            f"no cluster answers at {url} ({error.strerror or error}); give its dashboard's URL with --cluster"
        ) from None


def _pass_by_proxies(host: str) -> None:
    """Ask a cluster on this machine directly, whatever proxy the environment names: a proxy's own loopback is another."""
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
    """Why a job server refused, in one line: of a traceback what was raised.

    What passed through a node's agent is a traceback in a traceback, whose last line is a full stop.
    """
    lines = [line for line in text.splitlines() if line.strip(" .")]
    raised = raised_in("\n".join(lines))
    return plain(raised or (lines[-1] if lines else ""))[:300]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
