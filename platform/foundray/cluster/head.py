"""Check the head of a Ray cluster before Ray joins: does it answer, accept our token, and have our versions?

Ray's own client retries for minutes if nothing answers, and ends with many lines or none. Every check here has a timeout.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import closing
from typing import Any

from foundray.errors import InputError

PATIENCE_SECONDS = 8.0
"""Longest time that a head may be away, as during a restart, or that it may take to know this machine's node."""
ANSWER_SECONDS = 4.0
HOW_TO_GIVE = "set RAY_AUTH_MODE=token, and the token in RAY_AUTH_TOKEN, or the path of a file with it in RAY_AUTH_TOKEN_PATH"


def ask_head(address: str, node_ip: str | None = None) -> None:
    """Check that Ray can join the cluster at `address`, a value of RAY_ADDRESS, on the node of this machine with `node_ip`.

    Raises InputError if it cannot: at once, or after waiting for the head and for this node (8 s each).
    """
    import grpc  # type: ignore[import-untyped]
    from ray._private.gcs_utils import create_gcs_channel
    from ray.exceptions import AuthenticationError

    cluster = f"the cluster at RAY_ADDRESS={address}"
    gcs = _gcs_address(address)
    _connect(gcs, cluster)
    try:
        with closing(create_gcs_channel(gcs)) as channel:
            _check_versions(channel, cluster)
            _check_node_here(channel, cluster, gcs, node_ip)
    except AuthenticationError:
        raise InputError(f"RAY_AUTH_MODE=token, and {token_source()} holds no token for {cluster}: {HOW_TO_GIVE}") from None
    except grpc.RpcError as error:
        raise InputError(_refusal(error.code(), cluster)) from None


def _gcs_address(address: str) -> str:
    """The head's address as HOST:PORT. Raises InputError."""
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
    from ray._private.services import canonicalize_bootstrap_address

    if address.startswith("ray://"):
        raise InputError(
            f"RAY_ADDRESS={address} is for Ray's remote clients, and a run is driven from a node of the cluster: "
            "set RAY_ADDRESS=HEAD:6379 there, or hand the run over with `foundray submit`"
        )
    try:
        if address == "auto":
            maybe_enable_token_auth_if_token_available(warn_if_disabled=False)  # as Ray does for this address alone
        gcs = canonicalize_bootstrap_address(address)
        host, _, port = gcs.rpartition(":")
        if not host or not 0 < int(port) < 2**16:
            raise ValueError
    except ConnectionError:
        raise InputError("RAY_ADDRESS=auto finds no cluster on this machine: start one with `ray start --head`") from None
    except ValueError:
        raise InputError(f"RAY_ADDRESS={address} is no address of a cluster: write HOST:PORT, such as 10.0.0.1:6379") from None
    return gcs


def _connect(gcs: str, cluster: str) -> None:
    """Raise InputError if nothing accepts a connection."""
    host, _, port = gcs.rpartition(":")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
            return
        except socket.gaierror:
            raise InputError(f"{cluster} cannot be found: there is no host {host}; correct RAY_ADDRESS") from None
        except OSError as error:
            if time.monotonic() > deadline:
                why = error.strerror or "no answer"
                raise InputError(
                    f"nothing answers at {gcs}, for {cluster} ({why.lower()}): correct RAY_ADDRESS, start the head with "
                    "`ray start --head`, or open its port to this machine"
                ) from None
            time.sleep(0.5)


def _check_versions(channel: Any, cluster: str) -> None:
    """Raise InputError if Ray would reject the cluster's version of Ray or Python."""
    from ray._common.usage.usage_constants import CLUSTER_METADATA_KEY
    from ray._private.ray_constants import KV_NAMESPACE_CLUSTER
    from ray._private.utils import check_version_info, compute_version_info
    from ray.core.generated import gcs_service_pb2 as messages
    from ray.core.generated.gcs_service_pb2_grpc import InternalKVGcsServiceStub

    request = messages.InternalKVGetRequest(key=CLUSTER_METADATA_KEY, namespace=KV_NAMESPACE_CLUSTER)
    answer = InternalKVGcsServiceStub(channel).InternalKVGet(request, timeout=ANSWER_SECONDS)
    if not answer.value:
        return
    theirs = json.loads(answer.value)
    try:
        check_version_info(theirs, "this command")
    except RuntimeError:
        ray, python = compute_version_info()
        raise InputError(
            f"{cluster} runs Ray {theirs['ray_version']} on Python {theirs['python_version']}, and this command Ray {ray} on "
            f"Python {python}: both must be the same, here and on every node; install the one's versions for the other"
        ) from None


def _check_node_here(channel: Any, cluster: str, gcs: str, node_ip: str | None) -> None:
    """Raise InputError if this machine is not a node of the cluster: Ray would search for a minute."""
    from ray._private.services import find_node_ids
    from ray.core.generated import gcs_service_pb2 as messages
    from ray.core.generated.gcs_pb2 import GcsNodeInfo
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        request = messages.GetAllNodeInfoRequest(state_filter=GcsNodeInfo.ALIVE)
        answer = NodeInfoGcsServiceStub(channel).GetAllNodeInfo(request, timeout=ANSWER_SECONDS)
        alive = {n.node_id.hex() for n in answer.node_info_list if node_ip in (None, n.node_manager_address)}
        if alive & set(find_node_ids()):
            return
        if time.monotonic() > deadline:
            raise InputError(
                f"this machine is not a node of {cluster}, and a run is driven from a node: make it one with "
                f"`ray start --address={gcs}`, or hand the run over with `foundray submit`"
            )
        time.sleep(0.5)


def _refusal(code: Any, cluster: str) -> str:
    """Message for an error status. Names where a token is stored, never shows it."""
    import grpc
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    # gRPC itself rejects, as INTERNAL, a token with characters that a header must not have.
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INTERNAL):
        if is_token_auth_enabled():
            return f"{cluster} does not accept the token of {token_source()}: give the one that its head was started with"
        return f"{cluster} asks for a token, and this command gives none: {HOW_TO_GIVE}"
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"{cluster} accepts connections but does not answer within {ANSWER_SECONDS:.0f} s: look after its head"
    return (
        f"what answers for {cluster} is not the head of a Ray cluster: set RAY_ADDRESS to the address that "
        "`ray start --head` printed (its port is 6379 unless another was chosen)"
    )


def token_source() -> str:
    """Where Ray takes the token from, by its own precedence."""
    if "RAY_AUTH_TOKEN" in os.environ:
        return "RAY_AUTH_TOKEN"
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return f"RAY_AUTH_TOKEN_PATH={path}"
    return "~/.ray/auth_token"
