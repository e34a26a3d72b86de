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
        for name in ("start_log_monitor", "start_monitor", "start_api_server"):
            if hasattr(Node, name):
                instead = no_server if name == "start_api_server" else lambda *_, **__: None
                replaced.enter_context(mock.patch.object(Node, name, instead))
        yield


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
