"""The on-prem definition, unchanged, started by Ray's launcher on separate hosts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.integration.hosts import HOME, Hosts, why_not
from tests.repository import REPOSITORY

from foundray.testing.waiting import wait_until

pytestmark = pytest.mark.thorough

DEFINITION = "clusters/on-prem/cluster.yaml"
CONNECT = "import json, time, ray; ray.init(address='192.0.2.1:6379', logging_level='ERROR', log_to_driver=False)\n"
NODES = (
    CONNECT + "print(json.dumps({n['NodeManagerAddress']: n['Resources'].get('CPU', 0) for n in ray.nodes() if n['Alive']}))"
)
# Something runs on the node until it is seen to be draining.
BUSY = (
    CONNECT
    + """
from foundray.cluster.connect import draining_nodes
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
(node,) = [n['NodeID'] for n in ray.nodes() if n['Alive'] and n['NodeManagerAddress'] == '192.0.2.2']
@ray.remote(num_cpus=1, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
class Work:
    def begun(self): pass
work = Work.remote()
ray.get(work.begun.remote())
print('begun', flush=True)
while node not in draining_nodes(): time.sleep(0.1)
"""
)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Start a launcher, a head and two workers as the README says, and end them afterwards."""
    if why := why_not():
        pytest.skip(why)
    assert yaml.safe_load((REPOSITORY / DEFINITION).read_text())["provider"] == {
        "type": "local", "head_ip": "192.0.2.1", "worker_ips": ["192.0.2.2", "192.0.2.3"],
    }  # fmt: skip
    source = tmp_path_factory.mktemp("source") / "foundray"
    _wheel(source)
    made = Hosts(tmp_path_factory.mktemp("hosts") / "all", {"launcher": 100, "head": 1, "first": 2, "second": 3})
    try:
        for name in made.inits:
            made.install(name)
        home = made.home("launcher")
        shutil.copy(made.folder / "key", home / ".ssh" / "foundray")
        shutil.copytree(source, home / "foundray" / "source")
        ran(made, "launcher", "python3 -m venv foundray/venv && ray get-auth-token --generate > /dev/null")
        ran(made, "launcher", f"cd foundray/source && ray up -y {DEFINITION}")
        yield made
        ran(made, "launcher", f"cd foundray/source && ray down -y {DEFINITION}")
        assert set(made.processes("head")) <= {"sshd"}
        # Raylets that miss the head end.
        wait_until(lambda: not any("raylet" in made.processes(name) for name in made.inits), 90, "no raylet", pause=1)
    finally:
        made.close()


def _wheel(source: Path) -> None:
    for name in ("platform", "objectives", "clusters"):
        shutil.copytree(REPOSITORY / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(REPOSITORY / name, source)
    wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    subprocess.run(wheel, cwd=source, check=True, capture_output=True)
    shutil.copy(source / "constraints.txt", source / "dist")


def ran(hosts: Hosts, name: str, command: str, environment: str = "RAY_AUTH_MODE=token") -> str:
    """Output of a command that must succeed."""
    done = hosts.run(name, f"export PATH={HOME}/foundray/venv/bin:$PATH {environment}; {command}")
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
    return done.stdout


def nodes(hosts: Hosts) -> dict[str, float]:
    """CPUs of each living node, by address."""
    return json.loads(ran(hosts, "head", f'python -c "{NODES}"').splitlines()[-1])


@pytest.fixture(scope="module")
def whole(hosts: Hosts) -> Hosts:
    """Wait until all nodes have joined; the head starts the others by itself."""
    wait_until(lambda: all("raylet" in hosts.processes(name) for name in ("first", "second")), 240, "two raylets", pause=1)
    wait_until(lambda: len(nodes(hosts)) == 3, 30, "three nodes", pause=1)
    return hosts


def test_all_join_and_only_workers_take_work(whole: Hosts) -> None:
    cpus = nodes(whole)
    assert cpus.keys() == {"192.0.2.1", "192.0.2.2", "192.0.2.3"}
    assert cpus["192.0.2.1"] == 0 and cpus["192.0.2.2"] > 0 and cpus["192.0.2.3"] > 0
    assert oct((whole.home("first") / ".ray" / "auth_token").stat().st_mode & 0o777) == "0o600"


def test_nobody_joins_without_the_token(whole: Hosts) -> None:
    strangers = ["RAY_AUTH_MODE=disabled", "RAY_AUTH_MODE=token RAY_AUTH_TOKEN=another"]
    tried = [whole.start("launcher", f'export {stranger}; foundray/venv/bin/python -c "{NODES}"') for stranger in strangers]
    for stranger in tried:
        out, err = stranger.communicate(timeout=120)
        assert stranger.returncode != 0 and "192.0.2.2" not in out
        assert "token" in err.lower()


def test_the_dashboard_answers_to_the_token_and_on_the_head_alone(whole: Hosts) -> None:
    look = "curl -s -m 5 -o /dev/null -w '%{http_code}' "
    version = "http://{}:8265/api/jobs/"
    assert whole.run("head", look + version.format("127.0.0.1")).stdout == "401"
    with_token = f'-H "Authorization: Bearer $(cat {HOME}/.ray/auth_token)" '
    assert whole.run("head", look + with_token + version.format("127.0.0.1")).stdout == "200"
    assert whole.run("launcher", look + with_token + version.format("192.0.2.1")).stdout == "000"


def test_the_hook_of_a_pod_drains_its_node_and_waits_until_work_has_left(whole: Hosts) -> None:
    groups = yaml.safe_load((REPOSITORY / "clusters" / "kuberay" / "raycluster.yaml").read_text())["spec"]["workerGroupSpecs"]
    program, seconds, message = groups[1]["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    patient = int(seconds) + 30  # whatever else this machine does meanwhile
    hook = f"{program.replace('/opt', HOME, 1)} {patient} '{message}'"
    busy = whole.start("head", f'export RAY_AUTH_MODE=token; foundray/venv/bin/python -c "{BUSY}"')
    assert busy.stdout is not None and busy.stdout.readline() == "begun\n"
    begun = time.monotonic()
    ran(whole, "first", hook)
    assert time.monotonic() - begun < patient  # it did not wait for the time to be up
    assert busy.wait(timeout=30) == 0
    assert "raylet" not in whole.processes("first")


def test_a_spot_notice_drains_its_node(whole: Hosts) -> None:
    notice = "cloud/computeMetadata/v1/instance"
    ran(whole, "second", f"mkdir -p {notice} && echo TRUE > {notice}/preempted")
    serve = "python -m http.server --bind 127.0.0.1 --directory cloud 8000 > /dev/null 2>&1 & served=$!; sleep 1"
    said = ran(whole, "second", f"{serve}; METADATA_URL=http://127.0.0.1:8000 foundray/node/spot-notice.sh gcp; kill $served")
    assert "the machine is taken back in 30 s" in said
    assert "raylet" not in whole.processes("second")
