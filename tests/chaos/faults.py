"""A run on a local cluster of several nodes, and the faults that seeded schedules inject."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from tests.chaos.disk import Disk
from tests.chaos.lan import Lan
from tests.command import FOUNDRAY, Done, foundray

from foundray.cluster.local.cluster import LocalCluster
from foundray.cluster.local.node import SEPARATE
from foundray.testing.waiting import wait_until

NODES = 4
STEPS = 200
EVALUATE_EVERY = 60
RESOURCES = {"CPU": 1.0}


class Run:
    """A running training command on the cluster."""

    def __init__(self, cluster: LocalCluster, spec: Path, name: str, *arguments: str):
        self.cluster, self.spec, self.name = cluster, spec, name
        self.folder = spec.parent / "runs" / name
        self.start("train", spec, "--set", f"name={name}", *arguments)

    def start(self, *arguments: object) -> None:
        environment = {**os.environ, "RAY_ADDRESS": self.cluster.address, "FOUNDRAY_LOCAL_CLUSTER": str(self.cluster.folder)}
        command = [FOUNDRAY, *map(str, arguments), "--json"]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def step(self) -> int:
        """The last step recorded."""
        with contextlib.suppress(FileNotFoundError, IndexError, json.JSONDecodeError):
            return int(json.loads((self.folder / "metrics.jsonl").read_text().splitlines()[-1])["step"])
        return 0

    def wait_for_step(self, step: int, seconds: float = 600) -> None:
        """Wait until the step is recorded or the command has ended."""
        self.wait_for(lambda: self.step() >= step, f"step {step}", seconds)

    def wait_for_event(self, kind: str, seconds: float = 600) -> None:
        """Wait until an event of the kind is recorded or the command has ended."""
        self.wait_for(lambda: any(event["event"] == kind for event in self.events()), kind, seconds)

    def wait_for_file(self, path: Path, seconds: float = 300) -> None:
        self.wait_for(path.exists, path.name, seconds)

    def wait_for(self, reached: Callable[[], bool], what: str, seconds: float = 300) -> None:
        """Wait until it is reached, or the run ends."""
        wait_until(
            lambda: self.process.poll() is not None or reached(),
            seconds,
            lambda: f"{what}, after step {self.step()}: {self.events()[-5:]}",
        )

    def wait(self, seconds: float = 900) -> Done:
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end; step {self.step()}: {self.events()[-8:]}") from None
        return Done(self.process.returncode, out, err)

    def end(self) -> None:
        """Kill the driver if it still runs."""
        if self.process.poll() is None:
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL to the driver."""
        self.process.kill()
        self.process.communicate()

    def events(self) -> list[dict[str, Any]]:
        return self._read("events.jsonl")

    def steps(self) -> list[dict[str, Any]]:
        """Records of the steps."""
        return self._read("metrics.jsonl")

    def _read(self, file: str) -> list[dict[str, Any]]:
        with contextlib.suppress(FileNotFoundError):
            lines = (self.folder / file).read_text().split("\n")[:-1]  # the last one may be under way
            return [json.loads(line) for line in lines]
        return []


def nodes_of(cluster: LocalCluster) -> list[str]:
    """Names of the nodes that can be lost: all but the head."""
    return sorted(name for name in cluster.nodes if name != "head")


def head_of(folder: Path, lan: Lan | None = None) -> LocalCluster:
    """Start a cluster without nodes."""
    return LocalCluster.up(0, RESOURCES, folder, dashboard=False, network=SEPARATE if lan else None)


def add_node(cluster: LocalCluster, lan: Lan | None = None) -> str:
    return cluster.add(RESOURCES, wrapper=lan.host(cluster.added + 1) if lan else ())


class Faults:
    """The faults. Each leaves the cluster able to finish the run."""

    def __init__(
        self, cluster: LocalCluster, run: Run, dealer: random.Random, disk: Disk | None = None, lan: Lan | None = None
    ):
        self.cluster, self.run, self.dealer, self.disk, self.lan = cluster, run, dealer, disk, lan
        self.later: list[Callable[[], object]] = []
        """Actions to take before the next fault: undo this one, or complete it."""

    def nodes(self) -> list[str]:
        return nodes_of(self.cluster)

    def processes(self, title: str) -> list[psutil.Process]:
        """The cluster's processes by Ray's title, oldest first."""
        found = []
        for node in self.cluster.nodes.values():
            for process in node.processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if title in " ".join(process.cmdline()):
                        found.append(process)
        return sorted(found, key=lambda process: process.pid)

    def _kill_process(self, title: str, first: bool = False, by: signal.Signals = signal.SIGKILL) -> None:
        if found := self.processes(title):
            victim = found[0] if first else self.dealer.choice(found)
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.send_signal(by)

    def worker(self) -> None:
        self._kill_process("ray::Worker")

    def rank_0(self) -> None:
        """Kill the oldest worker, which records."""
        self._kill_process("ray::Worker", first=True)

    def evaluating(self) -> None:
        """Kill a worker while all workers evaluate."""
        if (evaluation := (self.run.step() // EVALUATE_EVERY + 1) * EVALUATE_EVERY) < STEPS:
            self.run.wait_for_step(evaluation)
        self.worker()

    def frozen(self) -> None:
        """Stop a worker without closing its connections."""
        self._kill_process("ray::Worker", by=signal.SIGSTOP)

    def paused(self) -> None:
        """Stop a worker for a moment, so that its answers are late."""
        self._pause(self.processes("ray::Worker"), self.dealer.uniform(0.3, 3.0))

    def held_up(self) -> None:
        """Stop the command for a while: afterwards all its times have jumped."""
        self._pause([psutil.Process(self.run.process.pid)], self.dealer.uniform(1.0, 6.0))

    def _pause(self, processes: list[psutil.Process], seconds: float) -> None:
        def go_on() -> None:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.resume()

        if processes:
            victim = self.dealer.choice(processes)
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.suspend()
            timer = threading.Timer(seconds, go_on)
            timer.start()
            self.later.append(timer.join)

    def second_command(self) -> None:
        """Resume a run that is at work: the second command is refused and changes nothing."""
        if self.run.process.poll() is None:
            done = foundray("resume", self.run.folder, timeout=120)
            assert done.status in (0, 2) and "Traceback" not in done.err, (done.status, done.err)

    def refused_deletes(self) -> None:
        """Make files of complete checkpoints undeletable for a while."""
        if self.disk:
            kept = [str(file) for file in (self.run.folder / "checkpoints").glob("*/*.safetensors")]
            subprocess.run(["chattr", "+i", *kept], capture_output=True)
            self.later.append(lambda: subprocess.run(["chattr", "-i", *kept], capture_output=True))

    def slot(self) -> None:
        """Kill a process of Ray Train's, which restarts its whole group."""
        self._kill_process("RayTrainWorker")

    def feeder(self) -> None:
        self._kill_process("ray::_Feeder")

    def node(self) -> None:
        """Kill a node; another comes before the next fault."""
        if len(self.nodes()) > 1:
            self.cluster.kill(self.dealer.choice(self.nodes()))
            self.later.append(lambda: self.add())

    def drain(self) -> None:
        """Drain a node; it is gone before the next fault, when another comes."""
        if len(self.nodes()) > 1:
            name = self.dealer.choice(self.nodes())
            self.cluster.drain(name, 20)

            def go() -> None:
                if name in self.cluster.nodes:
                    self.cluster.kill(name)
                self.add()

            self.later.append(go)

    def add(self) -> None:
        if len(self.nodes()) < NODES:
            add_node(self.cluster, self.lan)

    def partition(self) -> None:
        """Lose all packets between two nodes for a while."""
        if self.lan is None or len(self.nodes()) < 2:
            return self.paused()
        one, other = self.dealer.sample(self.nodes(), 2)
        self.lan.lose(self.cluster.nodes[one].ip, self.cluster.nodes[other].ip)
        self._before_long(self.lan.mend)

    def storage(self) -> None:
        """Make checkpoints fail for a while."""
        checkpoints = self.run.folder / "checkpoints"
        away = checkpoints.with_name("away")
        if checkpoints.is_dir() and not away.exists():
            checkpoints.rename(away)
            checkpoints.touch()

            def mend() -> None:
                checkpoints.unlink()
                away.rename(checkpoints)

            self.later.append(mend)

    def full(self) -> None:
        """Fill the disk for a while."""
        if self.disk:
            self.disk.fill()
            self._before_long(self.disk.empty)
        else:
            self.storage()

    def stall(self) -> None:
        """Stall the disk for a while."""
        if self.disk:
            self.disk.freeze()
            self._before_long(self.disk.thaw)
        else:
            self.storage()

    def _before_long(self, action: Callable[[], None]) -> None:
        timer = threading.Timer(self.dealer.uniform(2, 6), action)
        timer.start()
        self.later.append(timer.join)

    def damage(self) -> None:
        """Change a byte of the newest complete checkpoint and kill a node, so that the run has to find another state."""
        complete = sorted((self.run.folder / "checkpoints").glob("*/manifest.json"))
        if len(complete) > 1 and (shards := sorted(complete[-1].parent.glob("*.safetensors"))):
            with contextlib.suppress(FileNotFoundError):
                content = bytearray(shards[0].read_bytes())
                content[-1] ^= 1
                shards[0].write_bytes(content)
        self.node()

    def driver(self) -> None:
        """Kill the driver; `foundray resume` continues."""
        self.run.kill()
        self.run.start("resume", self.run.folder)

    def everything(self) -> None:
        """Kill every process of the cluster and the driver; `foundray resume` continues on a new cluster."""
        self.run.kill()
        self._go_on_elsewhere()

    def head(self) -> None:
        """Kill the head node, and the cluster with it: the command says so, and `foundray resume` continues on a new one."""
        self.cluster.kill("head")
        done = self.run.wait(120)
        assert done.status == 1, (done.status, done.err)
        assert "Traceback" not in done.err, done.err
        assert "foundray resume" in done.err, done.err
        self._go_on_elsewhere()

    def _go_on_elsewhere(self) -> None:
        folder = self.cluster.folder
        self.cluster.down()
        self.cluster.__dict__.update(head_of(folder, self.lan).__dict__)
        for _ in range(NODES):
            add_node(self.cluster, self.lan)
        self.run.start("resume", self.run.folder)

    def settle(self) -> None:
        """Complete what earlier faults left to do."""
        for action in self.later:
            action()
        self.later = []


def leftovers(cluster_folder: Path) -> list[str]:
    """Processes and files left behind by a cluster that is down."""
    found = [str(p) for p in (cluster_folder,) if p.exists()]
    for process in psutil.process_iter(["cmdline"]):
        if str(cluster_folder) in " ".join(process.info["cmdline"] or []):
            found.append(" ".join(process.info["cmdline"])[:200])
    return found


def shared_memory() -> set[str]:
    """Shared-memory files that no process has open; concurrent tests keep theirs open."""
    held = set[str]()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            held |= {file.path for file in process.open_files()} | {area.path for area in process.memory_maps()}
    return {str(file) for file in Path("/dev/shm").iterdir()} - held


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
