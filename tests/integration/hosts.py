"""Hosts on one machine: kernel namespaces with their own processes, network and `/tmp`, each with an sshd.

Processes on a host see no other processes and no other network, and die with it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import psutil

from foundray.testing.waiting import wait_until

NETWORK = "192.0.2."
"""Addresses for documentation (RFC 5737), so that a definition can be started unchanged."""
HOME = "/srv"
NAMESPACES = ["unshare", "--net", "--pid", "--mount", "--uts", "--fork", "--kill-child", "--mount-proc"]
BASHRC = f"""\
export PATH={Path(sys.base_prefix, "bin")}:$PATH
export PIP_NO_INDEX=1 PIP_DISABLE_PIP_VERSION_CHECK=1 OMP_NUM_THREADS=1
"""
SSHD = """\
AuthorizedKeysFile {home}/.ssh/authorized_keys
HostKey {folder}/host_key
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
Subsystem sftp internal-sftp
"""
# What is needed of /tmp and lies there, such as this Python, is mounted again over the empty one.
INIT = """\
set -e
hostname {name}
mount --bind {folder}/passwd /etc/passwd
mount --bind /dev/null /etc/resolv.conf
mkdir -p /run/sshd {folder}/kept
mount --bind {prefix} {folder}/kept
mount --rbind {folder} {HOME}
mount -t tmpfs none /tmp
mount -t tmpfs none /dev/shm
mkdir -p {prefix} {folder}
mount --bind {HOME}/kept {prefix}
mount --rbind {HOME} {folder}
mount --bind {folder}/home {HOME}
ip link set lo up
until ip link show eth0 > /dev/null 2>&1; do sleep 0.05; done
ip address add {ip}/24 dev eth0
ip link set eth0 up
ip route add default dev eth0
exec {sshd} -D -e -f {folder}/sshd_config
"""


def why_not() -> str | None:
    """Why hosts cannot be made here; None if they can."""
    for program in ("unshare", "nsenter", "ip", "sshd", "ssh", "ssh-keygen", "rsync"):
        if not shutil.which(program, path="/usr/bin:/bin:/usr/sbin:/sbin"):
            return f"{program} is not installed"
    tried = subprocess.run([*NAMESPACES, "ip", "link", "add", "lan", "type", "bridge"], capture_output=True)
    return "namespaces cannot be made here" if tried.returncode else None


class Hosts:
    def __init__(self, folder: Path, names: dict[str, int]):
        """Hosts, by name and the last byte of their address. Each one's home is `folder/NAME/home`."""
        self.folder = folder
        folder.mkdir(parents=True)
        self.packages = _installed(folder / "packages")
        for key in ("host_key", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        self._outers: list[tuple[psutil.Popen, psutil.Process]] = []
        self.switch = self._init("ip link add lan type bridge; ip link set lan up; exec sleep infinity")
        self.inits = {name: self._start(name, f"{NETWORK}{byte}") for name, byte in names.items()}

    def home(self, name: str) -> Path:
        return self.folder / name / "home"

    def _start(self, name: str, ip: str) -> psutil.Process:
        folder, home = self.folder / name, self.home(name)
        (home / ".ssh").mkdir(parents=True)
        shutil.copy(self.folder / "key.pub", home / ".ssh" / "authorized_keys")
        shutil.copy(self.folder / "host_key", folder)
        (home / ".bashrc").write_text(BASHRC)
        users = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith("root:")]
        superuser = [f"{user}:x:0:0::{HOME}:/bin/bash" for user in ("root", "foundray")]
        (folder / "passwd").write_text("\n".join([*superuser, *users, ""]))
        (folder / "sshd_config").write_text(SSHD.format(home=HOME, folder=folder))
        sshd = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/bin")
        init = self._init(INIT.format(name=name, folder=folder, prefix=sys.prefix, ip=ip, sshd=sshd, HOME=HOME))
        inside = ["nsenter", f"--target={self.switch.pid}", "--net", "ip", "link"]
        veth = ["add", name, "type", "veth", "peer", "name", "eth0", "netns", str(init.pid)]
        subprocess.run([*inside, *veth], check=True)
        subprocess.run([*inside, "set", name, "master", "lan", "up"], check=True)
        return init

    def _init(self, script: str) -> psutil.Process:
        """Start the first process of new namespaces. It lives until it is killed, or until this process ends."""
        outer = psutil.Popen(
            [*NAMESPACES, "bash", "-c", script],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        inner = wait_until(outer.children, 10, "new namespaces", outer, pause=0.01)
        self._outers.append((outer, inner[0]))
        return inner[0]

    def start(self, name: str, command: str) -> subprocess.Popen[str]:
        """Start a command in a host's home, with its own environment."""
        inside = ["nsenter", f"--target={self.inits[name].pid}", "--net", "--pid", "--mount", "--uts"]
        clean = ["env", "-i", f"HOME={HOME}", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "TERM=dumb"]
        return subprocess.Popen(
            [*inside, *clean, "bash", "-c", f"cd; source ~/.bashrc; {command}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, name: str, command: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run a command on a host to its end."""
        started = self.start(name, command)
        out, err = started.communicate(timeout=timeout)
        return subprocess.CompletedProcess(command, started.returncode, out, err)

    def processes(self, name: str) -> list[str]:
        """Names of the processes on a host."""
        inside = self.inits[name].children(recursive=True)
        return [process.name() for process in inside if process.is_running()]

    def install(self, name: str) -> None:
        """Put this Python's packages, except Foundray, where the host's virtual environment will be: hosts have no index."""
        venv = self.home(name) / "foundray" / "venv"
        site = Path(sysconfig.get_path("purelib", vars={"base": str(venv)}))
        site.mkdir(parents=True)
        (site / "packages.pth").write_text(f"{HOME}/packages\n")
        shutil.copytree(self.packages, self.home(name) / "packages", symlinks=True)
        (venv / "bin").mkdir()
        ray = venv / "bin" / "ray"
        ray.write_text(f"#!{HOME}/foundray/venv/bin/python\nfrom ray.scripts.scripts import main\nmain()\n")
        ray.chmod(0o755)

    def close(self) -> None:
        for outer, init in self._outers:
            init.kill()  # the first process of its namespace: the kernel ends the others
            outer.wait(timeout=10)


def _installed(folder: Path) -> Path:
    """Link to everything installed here, except Foundray, and except pip, which every virtual environment has."""
    folder.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "foundray" not in entry.name and entry.suffix != ".pth" and entry.name.partition("-")[0] != "pip":
            (folder / entry.name).symlink_to(entry)
    return folder
