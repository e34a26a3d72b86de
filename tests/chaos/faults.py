"""The faults that seeded schedules inject into a run on a local cluster of several nodes."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
from tests.chaos.disk import Disk
from tests.chaos.run import EVALUATE_EVERY, Run
from tests.chaos.site import FEWEST, Site
from tests.command import foundray


class Faults:
    """The faults. Each leaves the cluster able to finish the run."""

    def __init__(self, site: Site, run: Run, dealer: random.Random, disk: Disk | None = None):
        self.site, self.run, self.dealer, self.disk = site, run, dealer, disk
        self.later: list[Callable[[], object]] = []
        """Actions to take before the next fault: undo this one, or complete it."""

    def processes(self, title: str) -> list[psutil.Process]:
        """The cluster's processes by Ray's title, oldest first."""
        found = []
        for node in self.site.cluster.nodes.values():
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
        self.run.wait_for_step((self.run.step() // EVALUATE_EVERY + 1) * EVALUATE_EVERY)
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
        if len(self.site.nodes()) > 1:
            self.site.cluster.kill(self.dealer.choice(self.site.nodes()))
            self.later.append(self.site.add)

    def drain(self) -> None:
        """Drain a node; it is gone before the next fault, when another comes."""
        if len(self.site.nodes()) > 1:
            name = self.dealer.choice(self.site.nodes())
            self.site.cluster.drain(name, 20)

            def go() -> None:
                if name in self.site.cluster.nodes:
                    self.site.cluster.kill(name)
                self.site.add()

            self.later.append(go)

    def add(self) -> None:
        """Add a node, unless there are enough."""
        self.site.add()

    def partition(self) -> None:
        """Lose all packets between two nodes for a while."""
        if self.site.lan is None or len(self.site.nodes()) < 2:
            return self.paused()
        one, other = self.dealer.sample(self.site.nodes(), 2)
        self.site.lan.lose(*(self.site.cluster.nodes[name].ip for name in (one, other)))
        self._before_long(self.site.lan.mend, most=12)

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

    def _before_long(self, action: Callable[[], None], most: float = 6) -> None:
        timer = threading.Timer(self.dealer.uniform(2, most), action)
        timer.start()
        self.later.append(timer.join)

    def damage(self) -> None:
        """Change a byte of the newest complete checkpoint and kill a node, so that the run has to find another state."""
        complete = sorted((self.run.folder / "checkpoints").glob("*/manifest.json"))
        if len(complete) > 1 and not self.run.damaged.intersection(complete[-2:]):
            self.run.damaged.add(complete[-1])
            for shard in sorted(complete[-1].parent.glob("*.safetensors"))[:1]:
                with contextlib.suppress(OSError):  # pruned meanwhile, or the disk is full
                    content = bytearray(shard.read_bytes())
                    content[-1] ^= 1
                    shard.write_bytes(content)
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
        self.site.cluster.kill("head")
        done = self.run.wait(120)
        assert done.status == 1, (done.status, done.err)
        assert "Traceback" not in done.err, done.err
        assert "foundray resume" in done.err, done.err
        self._go_on_elsewhere()

    def _go_on_elsewhere(self) -> None:
        """Resume on a new cluster, which has all its nodes only before the next fault."""
        self.site.replace()
        self.site.fill(FEWEST - 1)
        self.run.start("resume", self.run.folder)
        self.later.append(lambda: self.site.fill(FEWEST))

    def settle(self) -> None:
        """Complete what earlier faults left to do, the last one first: it may have moved what an earlier one changed."""
        while self.later:
            self.later.pop()()


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
