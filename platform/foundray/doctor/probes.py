"""Checks of libraries that may be broken, each in a process of its own, whose last line of output is the finding as JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from foundray.doctor.finding import Finding
from foundray.errors import FoundrayError, InputError
from foundray.wording.sentences import plain

SECONDS = 120


def probed(name: str, *arguments: str) -> Finding:
    """Run a probe in a process. The finding is the probe's, or says how the process ended."""
    command = [sys.executable, "-c", f"from {__name__} import main; main()", name, *arguments]
    without = {"RAY_ADDRESS"}  # so that it starts a Ray, and does not join one
    environment = {key: value for key, value in os.environ.items() if key not in without}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Finding(name, "wrong", f"no answer within {SECONDS} s", PROBES[name].mend)
    with suppress(ValueError, IndexError, TypeError):
        return Finding(**json.loads(out.splitlines()[-1]))
    if process.returncode < 0:
        said = f"its process was ended by {signal.Signals(-process.returncode).name}"
    else:
        said = plain((err.strip().splitlines() or [f"its process ended with status {process.returncode}"])[-1])[:200]
    return Finding(name, "wrong", said, PROBES[name].mend)


@dataclass(frozen=True)
class Probe:
    look: Callable[..., Finding]
    mend: str
    """What to do if it raises, crashes or hangs."""


def main() -> None:
    name, *arguments = sys.argv[1:]
    try:
        finding = PROBES[name].look(*arguments)
    except BaseException as error:  # of any kind: the library may be broken in any way
        kind = "" if isinstance(error, FoundrayError) else f"{type(error).__name__}: "
        finding = Finding(name, "wrong", plain(f"{kind}{error}")[:200], PROBES[name].mend)
    print("\n" + json.dumps(finding.to_dict()), flush=True)


def _torch() -> Finding:
    import torch

    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    for device in devices:
        ones = torch.ones(64, 64, device=device)
        if not torch.equal(ones @ ones, 64 * ones):
            return Finding("torch", "wrong", f"a matrix product is wrong on {device}", PROBES["torch"].mend)
        large = torch.full((1024,), 2**52 + 1, dtype=torch.int64, device=device)
        if int(large.sum()) != 1024 * (2**52 + 1):
            return Finding("torch", "wrong", f"a sum of 64-bit integers is not exact on {device}", PROBES["torch"].mend)
    found = [f"{torch.__version__}, CPU with {torch.backends.cpu.get_cpu_capability()}"]
    for device in devices[1:]:
        with torch.cuda.device(device):
            precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16: fp32"
        found.append(f"{torch.cuda.get_device_name(device)} ({precision})")
    if torch.backends.mps.is_available():
        found.append("MPS (not used)")
    summary = ", ".join(found)
    if len(devices) == 1 and Path("/dev/nvidia0").exists():
        mend = "install a torch with CUDA and a driver that fits it: there is an NVIDIA device, and it is not used"
        return Finding("torch", "warn", f"{summary}, no CUDA device", mend)
    return Finding("torch", "ok", summary)


def _bitsandbytes() -> Finding:
    import logging

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import bitsandbytes
    import torch

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        weights = torch.nn.Parameter(torch.ones(1024, device=device))
        optimizer = bitsandbytes.optim.AdamW8bit([weights], lr=0.1, weight_decay=0.0, min_8bit_size=1)
        weights.grad = torch.ones_like(weights)
        optimizer.step()
        moved, eight = 1 - weights.detach().mean().item(), optimizer.state[weights]["state1"].dtype == torch.uint8
        if not eight or abs(moved - 0.1) > 0.01:  # the first step of Adam is as long as the learning rate
            said = f"a step of 8-bit AdamW moves weights by {moved:.4f} and not by 0.1 on {device}"
            return Finding("bitsandbytes", "wrong", said, PROBES["bitsandbytes"].mend)
    return Finding("bitsandbytes", "ok", f"{bitsandbytes.__version__}, a step of 8-bit AdamW on {' and '.join(devices)}")


def _objectives() -> Finding:
    from foundray.contract import MODALITIES, OBJECTIVES, class_of, installed

    broken = []
    for group in (OBJECTIVES, MODALITIES):
        for name in installed(group):
            try:
                class_of(group, name)
            except InputError as error:
                broken.append(str(error))
    objectives, modalities = installed(OBJECTIVES), installed(MODALITIES)
    if broken:
        return Finding("objectives", "wrong", "; ".join(broken)[:400], PROBES["objectives"].mend)
    if not objectives or not modalities:
        return Finding("objectives", "wrong", "none is installed", PROBES["objectives"].mend)
    return Finding("objectives", "ok", f"{len(objectives)} objectives, {len(modalities)} modalities: {', '.join(modalities)}")


def _ray() -> Finding:
    import time

    from foundray.cluster.connect import connected
    from foundray.host.writable import check_shared_memory, check_temporary_folder

    for check in (check_temporary_folder, check_shared_memory):
        try:
            check()
        except InputError as error:
            return Finding("ray", "wrong", "it cannot write where it must", str(error))
    began = time.monotonic()
    with connected() as ray:
        answer = ray.get(ray.remote(lambda content: len(content)).remote(ray.put(bytes(1_000_000))), timeout=60)
    if answer != 1_000_000:
        return Finding("ray", "wrong", f"a task returned {answer} instead of 1000000", PROBES["ray"].mend)
    return Finding("ray", "ok", f"{ray.__version__}, a node started and ran a task in {time.monotonic() - began:.1f} s")


def _storage(url: str) -> Finding:
    from foundray.storage import Store

    Store.at(url).check_writable()
    return Finding("storage", "ok", f"{plain(url)} can be written")


PROBES = {
    "torch": Probe(_torch, "reinstall torch, in the build for this machine (https://pytorch.org/get-started)"),
    "bitsandbytes": Probe(_bitsandbytes, "reinstall bitsandbytes, or train with optimizer.kind: adamw"),
    "objectives": Probe(_objectives, "reinstall Foundray, and the packages that bring objectives or modalities"),
    "ray": Probe(_ray, "read /tmp/ray/session_latest/logs; usual causes are a firewall, a proxy or too little memory"),
    "storage": Probe(_storage, "check the URL, the credentials and the network on the way there"),
}
