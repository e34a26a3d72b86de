"""A local Ray for one command: its start, and its token."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from foundray.cluster.local.node import TOO_BUSY
from foundray.errors import InputError
from foundray.host.machine import PASSIVE
from foundray.host.signals import spared
from foundray.host.writable import OBJECT_STORE, check_shared_memory, check_temporary_folder, temporary_folder

TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
WAITING = '[ -p /dev/stdin ] && exec cat; while kill -0 "$RAY_RAYLET_PID" 2> /dev/null; do sleep 1; done'
"""Shell command that ends with Ray's node, which holds the other end of its standard input, unless Ray is set not to."""
_own: list[Any] = []
"""The Ray that this process has started, while it runs."""


def is_alone() -> bool:
    """Whether this process started the Ray it is connected to: nobody else uses it, and it never has more than one node."""
    return bool(_own)


@contextmanager
def local_ray(cores: int, quiet: dict[str, Any]) -> Iterator[Any]:
    """Run Ray on this machine during the block; `quiet` are further arguments of `ray.init`. Raises InputError."""
    import ray

    check_temporary_folder()
    check_shared_memory()
    for name, value in PASSIVE.items():  # Ray's processes inherit it
        os.environ.setdefault(name, value)
    with _own_token():
        try:
            _start(ray, {"num_cpus": cores, **quiet})
            _own.append(ray)
            yield ray
        finally:
            _own.clear()
            ray.shutdown()


def _start(ray: Any, arguments: dict[str, Any]) -> None:
    for again in (True, False):
        try:
            with spared(), _without_unused():
                ray.init(address="local", object_store_memory=OBJECT_STORE, include_dashboard=False, **arguments)
            return
        except Exception as error:  # Ray raises many types here, even bare Exception if the machine is too busy
            ray.shutdown()  # clean up a partial start
            why = (str(error).splitlines() or [type(error).__name__])[0]
            if not (again and TOO_BUSY in why):
                raise InputError(f"a local Ray does not start: {why}; `foundray doctor` looks for the cause") from None


@contextmanager
def _without_unused() -> Iterator[None]:
    """Omit Ray's daemons that do nothing here. No public option does this.

    Logs are not forwarded (log monitor), one machine does not scale (monitor), and without a dashboard its server would only
    report usage to Ray's makers. `ray.init` waits for that server, which takes two seconds to import.
    """
    from ray._private.node import Node

    def no_server(node: Any, *_: Any, **__: Any) -> None:
        node._webui_url = ""  # the dashboard's address, as if there were none

    with ExitStack() as replaced:
        _replace_agent(replaced)
        for name in ("start_log_monitor", "start_monitor", "start_api_server"):
            if hasattr(Node, name):
                instead = no_server if name == "start_api_server" else lambda *_, **__: None
                replaced.enter_context(mock.patch.object(Node, name, instead))
        yield


def _replace_agent(replaced: ExitStack) -> None:
    """Put a process that only waits in the place of the dashboard's agent, which takes a second to import.

    The agent would serve the dashboard and Prometheus, which do not know this Ray. Ray's node ends if its agent ends,
    and waits for the ports on which the agent serves; -1 is Ray's own number for none.
    """
    from ray._private import ray_constants, services, utils
    from ray._private.node import Node
    from ray._raylet import (  # type: ignore[attr-defined]
        DASHBOARD_AGENT_LISTEN_PORT_NAME,
        METRICS_AGENT_PORT_NAME,
        METRICS_EXPORT_PORT_NAME,
        persist_port,
    )

    start, build = Node.start_raylet, services._build_python_executable_command_memory_profileable

    def start_raylet(node: Any, *arguments: Any, **options: Any) -> None:
        for name in (METRICS_AGENT_PORT_NAME, METRICS_EXPORT_PORT_NAME, DASHBOARD_AGENT_LISTEN_PORT_NAME):
            persist_port(node.get_session_dir_path(), node._node_id, name, -1)
        start(node, *arguments, **options)

    def command(component: str, *arguments: Any, **options: Any) -> list[str]:
        if component == ray_constants.PROCESS_TYPE_DASHBOARD_AGENT:
            return ["/bin/sh", "-c", WAITING, "no-dashboard-agent"]  # what follows are arguments of the agent's
        built: list[str] = build(component, *arguments, **options)
        return built

    replaced.enter_context(mock.patch.object(Node, "start_raylet", start_raylet))
    replaced.enter_context(mock.patch.object(services, build.__name__, command))
    # Ray would import the dashboard to find out what its agent can do.
    replaced.enter_context(mock.patch.object(utils, "get_dashboard_dependency_error", ImportError))


@contextmanager
def _own_token() -> Iterator[None]:
    """Give Ray a token for this block: Ray would keep one in the home folder, which may be read-only or missing.

    A token named by the environment takes precedence.
    """
    from ray._private.authentication.authentication_token_setup import AuthenticationTokenLoader

    named = os.environ.get(TOKEN_PATH)
    if os.environ.get("RAY_AUTH_TOKEN") or (named and os.access(named, os.R_OK)):
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="foundray-token-", dir=_made(temporary_folder())))  # mode 700
    try:
        (folder / "token").write_text(secrets.token_hex(32))
        os.environ[TOKEN_PATH] = str(folder / "token")
        AuthenticationTokenLoader.instance().reset_cache()
        yield
    finally:
        if named is None:
            os.environ.pop(TOKEN_PATH, None)
        else:
            os.environ[TOKEN_PATH] = named
        AuthenticationTokenLoader.instance().reset_cache()
        shutil.rmtree(folder, ignore_errors=True)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
