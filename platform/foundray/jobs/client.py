"""A cluster as its job server shows it, by HTTP: what can be wrong with it is told in one sentence."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Any

from foundray.cluster import HOW_TO_GIVE_A_TOKEN, enter_cluster
from foundray.errors import InputError, RunFailed
from foundray.local_cluster import LocalCluster

ANSWER_SECONDS = 10.0
"""Longest that a cluster may take to answer at all."""
QUIET_SECONDS = 1.0
CERTAIN_SECONDS = 3.0
"""A job that is under way for so long with its node living is taken for living."""
DEATH_SECONDS = 90.0
"""Longest that a cluster takes to see that a job's node is gone."""
URL = "RAY_API_SERVER_ADDRESS"
"""Ray's own variable for the place where jobs are submitted."""


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
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"--cluster {url}: give the URL of the cluster's dashboard, such as http://HEAD:8265")
    return url.rstrip("/")


class Client:
    """Ray's job client."""

    def __init__(self, url: str):
        """Raises InputError where no cluster of this Ray version answers, or not to us."""
        self.url = url
        _check_there_is_somebody(url)
        enter_cluster(url)
        os.environ[URL] = url  # goes before RAY_ADDRESS, which Ray would prefer to what it is told
        import ray
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        for talkative in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
            logging.getLogger(f"ray.{talkative}").setLevel(logging.WARNING)
        try:
            self.ray = JobSubmissionClient(url)
            there = self.ray._do_request("GET", "/api/version", timeout=ANSWER_SECONDS).json()["ray_version"]
        except AuthenticationError as error:
            what = "did not take the token" if "403" in str(error) or "invalid" in str(error).lower() else "asks for a token"
            raise InputError(f"the cluster at {url} {what}: {HOW_TO_GIVE_A_TOKEN}") from None
        except Exception as error:  # Ray lets through what its HTTP library raises, of many kinds
            raise InputError(f"{url} does not answer as a Ray cluster does: {str(error).splitlines()[0][:200]}") from None
        if there != ray.__version__:
            raise InputError(f"the cluster at {url} runs Ray {there}, and this is Ray {ray.__version__}: install {there} here")

    def info(self, job: str) -> Any:
        """Ray's record of a job (`status`, `metadata`, `driver_exit_code`, ...); None where there is none."""
        try:
            return self.ray.get_job_info(job)
        except RuntimeError as error:
            if "404" in str(error):
                return None
            raise RunFailed(f"the cluster at {self.url} did not tell of {job}: {str(error).splitlines()[0][:200]}") from None

    def known(self, job: str) -> Any:
        """The same. Raises InputError where there is none."""
        if (info := self.info(job)) is None:
            names = sorted(found.submission_id for found in self.ray.list_jobs() if found.submission_id)
            there = f"there are: {', '.join(names)}" if names else "it has none"
            raise InputError(f"the cluster at {self.url} knows no run {job}; {there}")
        return info

    def head(self) -> str:
        """Ray's id of the head node."""
        return next(node["nodeId"] for node in self._nodes() if node.get("isHeadNode"))

    def runs(self, job: str) -> bool:
        """Whether a job is under way: a head that has just come back takes those for living that died with the one before."""
        deadline, stopped = time.monotonic() + DEATH_SECONDS, False
        certain = time.monotonic() + CERTAIN_SECONDS
        while (info := self.info(job)) and not info.status.is_terminal() and time.monotonic() < deadline:
            lives = info.driver_node_id in (None, *(node["nodeId"] for node in self._nodes()))
            if time.monotonic() > certain:
                if lives:
                    return True
                if not stopped:  # what wakes the head's job manager, which looks after jobs only from its first order on
                    stopped = self.ray.stop_job(job) or True
            time.sleep(0.5)
        return bool(info and not info.status.is_terminal())

    def _nodes(self) -> list[dict[str, Any]]:
        """Those that live."""
        nodes = self.ray._do_request("GET", "/nodes?view=summary", timeout=ANSWER_SECONDS).json()["data"]["summary"]
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
