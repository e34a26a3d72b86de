"""The commands that Ray's own tools would run for a cluster's definition, and whether Ray accepts it."""

from __future__ import annotations

import json
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import click
import ray
import yaml
from ray.autoscaler._private.updater import NodeUpdater
from ray.autoscaler._private.util import prepare_config, validate_config, with_head_node_ip
from ray.autoscaler.node_provider import NodeProvider
from ray.scripts.scripts import cli
from tests.repository import REPOSITORY

from foundray.spec import PoolConfig

CLUSTERS = REPOSITORY / "clusters"
HEAD_IP = "192.0.2.1"


def launcher_config(name: str) -> dict[str, Any]:
    """A definition for the cluster launcher, with Ray's defaults filled in, and checked by Ray's schema."""
    config = prepare_config(yaml.safe_load((CLUSTERS / name / "cluster.yaml").read_text()))
    validate_config(config)
    return config


class _Machines(NodeProvider):
    """A provider of machines that have not run anything yet."""

    def __init__(self) -> None:
        super().__init__(None, "test")

    def is_terminated(self, node_id: str) -> bool:
        return False

    def node_tags(self, node_id: str) -> dict[str, str]:
        return {}

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        pass

    def external_ip(self, node_id: str) -> str:
        return HEAD_IP


class _Commands:
    """Stand-in for `subprocess` that records commands instead of running them."""

    DEVNULL = subprocess.DEVNULL

    def __init__(self) -> None:
        self.noted: list[list[str]] = []

    def check_call(self, command: list[str], **_: Any) -> int:
        self.noted.append(command)
        return 0


def node_scripts(config: dict[str, Any], node_type: str) -> list[str]:
    """Commands that the launcher would run over ssh on a node of a type, in order, as its shell would see them."""
    head = node_type == config["head_node_type"]
    commands, kind = _Commands(), config["available_node_types"][node_type]
    start = config["head_start_ray_commands"] if head else with_head_node_ip(config["worker_start_ray_commands"], HEAD_IP)
    updater = NodeUpdater(
        node_id="node", provider_config=config["provider"], provider=_Machines(), auth_config=config["auth"],
        cluster_name=config["cluster_name"], file_mounts={}, initialization_commands=config["initialization_commands"],
        setup_commands=config["head_setup_commands" if head else "worker_setup_commands"], ray_start_commands=start,
        runtime_hash="", file_mounts_contents_hash="", is_head_node=head, process_runner=commands,
        node_resources=kind["resources"], node_labels=kind.get("labels"),
    )  # fmt: skip
    updater.do_update()
    return [shlex.split(command[-1])[0] for command in commands.noted]


def check_shell(script: str) -> None:
    done = subprocess.run(["bash", "-n", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, (script, done.stderr)


def ray_commands(script: str) -> list[list[str]]:
    """Calls of `ray` in a script."""
    lexer = shlex.shlex(script.replace("\\\n", " ").replace("\n", ";"), posix=True, punctuation_chars=";&|()<>")
    lexer.whitespace_split = True
    calls: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set(";&|()<>"):
            calls.append([])
        elif calls[-1] or word == "ray":
            calls[-1].append(word)
    return [call for call in calls if call]


def check_ray_command(call: list[str]) -> None:
    """Raise click.UsageError if Ray's command line does not know the command, one of its options, or their values."""
    command: click.Command = cli
    words = call[1:]
    while isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(click.Context(command), name)
        if found is None:
            raise click.UsageError(f"ray has no command {name}")
        command = found
    command.make_context(command.name, words)


@cache
def _ray_says() -> bytes:
    """Ray's library and Python sources, in which a variable's name must be found."""
    folder = Path(ray.__file__).parent
    sources = [
        *(folder / "_private").rglob("*.py"),
        *(folder / "_common").rglob("*.py"),
        *(folder / "autoscaler").rglob("*.py"),
    ]
    return b"\n".join(file.read_bytes() for file in [folder / "_raylet.so", *sources])


def ray_knows(variable: str) -> bool:
    """Whether Ray reads an environment variable: under its name, or as a field of its configuration, without the prefix."""
    return variable.encode() in _ray_says() or variable.removeprefix("RAY_").encode() in _ray_says()


def node_types_chosen(config: dict[str, Any], pool: PoolConfig) -> tuple[dict[str, int], int]:
    """(nodes that Ray's autoscaler would start for all workers of a pool, by type; number of workers that it cannot place)."""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.common_pb2 import LabelSelectorOperator

    wanted = dict(pool.resources)
    if pool.accelerator:
        wanted[f"accelerator_type:{pool.accelerator}"] = 0.001
    labels = [(key, LabelSelectorOperator.LABEL_OPERATOR_IN, [value]) for key, value in pool.labels.items()]
    worker = ResourceRequestUtil.make(wanted, label_selectors=[labels])
    cluster = AutoscalingConfig(config, skip_content_hash=True)
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=cluster.get_node_type_configs(),
            max_num_nodes=cluster.get_max_num_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count([worker] * pool.workers[1]),
        )
    )
    return {launch.instance_type: launch.count for launch in reply.to_launch}, len(reply.infeasible_resource_requests)


def ray_start(group: dict[str, Any], head: bool) -> str:
    """The `ray start` that KubeRay generates from a group's parameters, labels and resources, or its container's limits."""
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    options = {"num-cpus": limits["cpu"], "num-gpus": limits.get("nvidia.com/gpu"), **group["rayStartParams"]}
    others = {}
    for name, amount in group.get("resources", {}).items():
        if name in ("CPU", "GPU"):
            options[f"num-{name.lower()}s"] = amount
        else:
            others[name] = float(amount)
    if others:
        options["resources"] = f"'{json.dumps(others)}'"
    options["labels"] = ",".join(f"{key}={value}" for key, value in sorted(group["labels"].items()))
    options |= {"dashboard-host": "0.0.0.0", "no-monitor": None} if head else {"address": "foundray-head-svc:6379"}
    given = " ".join(f"--{name}={value}" for name, value in sorted(options.items()) if value is not None)
    return f"ray start {'--head --no-monitor ' if head else ''}{given} --block --metrics-export-port=8080"
