"""Checks of the way to a cluster: its address, its token, and proxies in between."""

from __future__ import annotations

import os
import re
import socket
import stat
from pathlib import Path
from urllib.request import getproxies, proxy_bypass

from foundray.doctor.finding import Finding, judged

ANSWER_SECONDS = 3.0
DEFAULT_TOKEN = Path(".ray/auth_token")
"""Below the home folder: where Ray looks for a token by default."""


def address() -> Finding:
    where = os.environ.get("RAY_ADDRESS", "")
    if not where:
        return Finding("cluster", "ok", "RAY_ADDRESS is not set: a command starts a Ray of its own")
    if where in ("auto", "local"):
        return Finding("cluster", "ok", f"RAY_ADDRESS={where}")
    form = re.fullmatch(r"\[?([^\]/@]+)\]?:(\d+)", where)
    if not form:
        mend = "write it as HEAD:PORT, such as 10.0.0.1:6379, or unset it"
        return Finding("cluster", "wrong", "RAY_ADDRESS is not a host and port", mend)
    try:
        socket.create_connection((form[1], int(form[2])), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        mend = "start the cluster, correct RAY_ADDRESS, or unset it, so that commands start a Ray of their own"
        return Finding("cluster", "wrong", f"nothing answers at {where} ({error})", mend)
    return Finding("cluster", "ok", f"{where} answers")


def token() -> Finding:
    """Check the token, and never show it."""
    needed = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    if os.environ.get("RAY_AUTH_TOKEN"):
        return Finding("token", "ok", "in the environment")
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        file = Path(named).expanduser() if named else Path.home() / DEFAULT_TOKEN
    except RuntimeError:  # neither the environment nor the system knows a home folder
        return Finding("token", "ok", "none, and no home folder to keep one in")
    if not file.is_file():
        if named or needed:
            mend = "write the cluster's token there (mode 600), or name its file in RAY_AUTH_TOKEN_PATH"
            return Finding("token", "wrong", f"{file} does not exist", mend)
        return Finding("token", "ok", "none")
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & 0o077:
        mend = f"chmod 600 {file}, and replace the token: anyone who has it can run programs on the cluster"
        return judged("token", f"others may read {file} (mode {mode:o})", bool(named or needed), True, mend)
    if not os.access(file, os.R_OK) or not file.read_bytes().strip():
        return Finding("token", "wrong", f"{file} is empty or cannot be read", "write the cluster's token there")
    return Finding("token", "ok", f"in {file}")


def proxy() -> Finding:
    proxies = {kind for kind in getproxies() if kind in ("http", "https", "all", "grpc")}
    if not proxies:
        return Finding("proxy", "ok", "none")
    caught = [host for host in ("127.0.0.1", "localhost") if not proxy_bypass(host)]
    names = ", ".join(f"{kind}_proxy" for kind in sorted(proxies))
    if caught:
        mend = (
            "set no_proxy=localhost,127.0.0.1 (and the cluster's hosts): jobs and dashboards on this machine cannot be reached"
        )
        return Finding("proxy", "warn", f"{names} catch {' and '.join(caught)}", mend)
    return Finding("proxy", "ok", f"{names}, not for this machine")
