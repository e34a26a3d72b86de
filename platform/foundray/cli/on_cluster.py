"""`--cluster`: the run is a job on a cluster."""

from __future__ import annotations

from typing import Any


def add_cluster(parser: Any) -> None:
    parser.add_argument(
        "--cluster", nargs="?", const="", metavar="URL",
        help="the run is a job there (default URL: RAY_API_SERVER_ADDRESS, or the cluster on this machine)",
    )  # fmt: skip


def client_at(url: str) -> Any:
    """Return a client of the cluster at `url`, or of the default one if it is empty."""
    from foundray.jobs.client import Client, cluster_url

    return Client(cluster_url(url))
