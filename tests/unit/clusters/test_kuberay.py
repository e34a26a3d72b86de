"""The KubeRay manifests and the image of their pods, checked by Kubernetes' and KubeRay's schemas, Ray and hadolint."""

from __future__ import annotations

import copy
import importlib.resources
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from dockerfile_parse import DockerfileParser
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.kuberay.utils import parse_quantity
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from tests.repository import REPOSITORY
from tests.unit.rendered import CLUSTERS, check_ray_command, check_shell, node_types_chosen, ray_commands, ray_start

from foundray.spec import ScaleConfig

KUBERNETES = "1.37"
FOLDER = CLUSTERS / "kuberay"
IMAGE = CLUSTERS / "container"


def manifest(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text())


def cluster_spec(name: str) -> dict[str, Any]:
    spec = manifest(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def faults(found: dict[str, Any]) -> list[str]:
    """Objections of KubeRay's schema to a manifest, including unknown fields."""
    versions = importlib.resources.files(kubernetes_validate) / "kubernetes-json-schema"
    kubernetes = json.loads((versions / f"v{KUBERNETES}.0-local-strict" / "_definitions.json").read_text())
    kubernetes.pop("$id")
    kuberay = yaml.safe_load((REPOSITORY / "tests" / "schemas" / "kuberay.yaml").read_text())
    both = {"kubernetes": kubernetes, "kuberay": kuberay}
    registry = Registry().with_resources((name, DRAFT202012.create_resource(schema)) for name, schema in both.items())
    validator = jsonschema.Draft202012Validator({"$ref": f"kuberay#/$defs/{found['kind']}"}, registry=registry)
    return [f"{fault.json_path}: {fault.message}" for fault in validator.iter_errors(found)]


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_kuberay_takes_the_manifests(name: str) -> None:
    assert faults(manifest(name)) == []


def test_unknown_fields_are_found_at_any_depth() -> None:
    for path in (["spec"], ["spec", "authOptions"], ["spec", "workerGroupSpecs", 1, "template", "spec", "containers", 0]):
        broken = copy.deepcopy(manifest("raycluster.yaml"))
        here: Any = broken
        for key in path:
            here = here[key]
        here["shm"] = "1Gi"
        assert len(faults(broken)) == 1 and "shm" in faults(broken)[0]


def test_kubernetes_takes_the_rest() -> None:
    kinds = []
    for found in yaml.safe_load_all((FOLDER / "redis.yaml").read_text()):
        kubernetes_validate.validate(found, KUBERNETES, strict=True)
        kinds.append(found["kind"])
    assert kinds == ["Service", "StatefulSet", "NetworkPolicy", "ServiceAccount"]


def test_a_job_has_the_cluster_that_stays_beside_it() -> None:
    assert cluster_spec("rayjob.yaml") == cluster_spec("raycluster.yaml")


def test_what_the_operator_itself_would_refuse() -> None:
    """Rules of KubeRay's own validation that no schema states."""
    spec, job = cluster_spec("raycluster.yaml"), manifest("rayjob.yaml")["spec"]
    assert spec["authOptions"] == {"mode": "token"} and spec["rayVersion"] == _constraint("ray")
    assert (
        "externalStorageNamespace" not in spec["gcsFaultToleranceOptions"]
    )  # clusters would take each other's state for theirs
    assert spec["gcsFaultToleranceOptions"]["redisPassword"].keys() == {"valueFrom"}
    assert spec["enableInTreeAutoscaling"] and spec["autoscalerOptions"]["version"] == "v2"
    for group in groups(spec):
        assert not {"num-cpus", "num-gpus", "memory", "resources", "labels"} & group["rayStartParams"].keys()
        assert group["template"]["spec"].get("restartPolicy", "Never") == "Never"
    assert job["backoffLimit"] > 0 and "clusterSelector" not in job
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", manifest("rayjob.yaml")["metadata"]["name"])


def groups(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def _constraint(package: str) -> str:
    (line,) = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if line.startswith(f"{package}==")]
    return line.partition("==")[2]


def test_every_ray_start_is_one_that_ray_knows() -> None:
    spec = cluster_spec("raycluster.yaml")
    for group in groups(spec):
        script = ray_start(group, head=group is spec["headGroupSpec"])
        check_shell(script)
        (call,) = ray_commands(script)
        check_ray_command(call)


def test_ray_reads_groups_and_pools_alike() -> None:
    """Ray's autoscaler, reading the manifest as it does in the head's pod, starts the groups that the pools ask for."""
    cluster = manifest("raycluster.yaml")
    cluster["metadata"]["namespace"] = "default"
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    types = config["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0 and types["driver"]["resources"]["driver"] == 1
    assert json.loads(manifest("rayjob.yaml")["spec"]["entrypointResources"]) == {"driver": 1}
    scale = ScaleConfig.model_validate(yaml.safe_load((FOLDER / "pools.yaml").read_text())["scale"])
    assert set(scale.pools) == types.keys() - {"headgroup", "driver"}
    # The driver's group is never empty, so that its node is started with any other.
    for name, pool in scale.pools.items():
        assert node_types_chosen(config, pool) == ({"driver": 1, name: types[name]["max_workers"]}, 0)


def test_pods_are_bounded_unprivileged_and_have_room_for_objects() -> None:
    for group in groups(cluster_spec("raycluster.yaml")):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["resources"]["requests"] == container["resources"]["limits"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys()
        shm = volumes["shm"]["emptyDir"]
        assert shm["medium"] == "Memory" and "/dev/shm" in [mount["mountPath"] for mount in container["volumeMounts"]]
        assert int(group["rayStartParams"]["object-store-memory"]) < parse_quantity(shm["sizeLimit"])


def test_a_spot_pod_is_drained_before_it_ends() -> None:
    for group in cluster_spec("raycluster.yaml")["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        spot = group["labels"]["market"] == "spot"
        assert ("nodeSelector" in pod) == ("tolerations" in pod) == spot
        if spot:
            program, seconds, _ = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
            assert int(seconds) + 5 <= pod["terminationGracePeriodSeconds"] <= 25
            source = CLUSTERS / "node" / Path(program).name
            assert program.startswith("/opt/foundray/node/") and os.access(source, os.X_OK)


def test_hadolint_finds_nothing_in_the_image() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, IMAGE / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_is_made_of_files_that_are_there_and_sent() -> None:
    steps = DockerfileParser(str(IMAGE / "Dockerfile"), cache_content=True).structure
    sent = {line[1:] for line in (IMAGE / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for step in steps if step["instruction"] == "COPY" for source in step["value"].split()[:-1]}
    assert copied == sent and all((REPOSITORY / source).exists() for source in copied)
    for step in steps:
        if step["instruction"] == "RUN":
            check_shell(step["value"])
    runs = [step["value"] for step in steps if step["instruction"] == "RUN"]
    assert all("--constraint constraints.txt" in run or "--no-deps" in run for run in runs if "pip install" in run)
    assert [step["value"] for step in steps if step["instruction"] == "USER"] == ["1000:1000"]
    assert "COPY clusters/node /opt/foundray/node" in (IMAGE / "Dockerfile").read_text()
