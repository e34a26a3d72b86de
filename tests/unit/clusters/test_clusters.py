"""The cluster launcher's definitions, and the scripts that run on nodes: everything that can be tested without a cloud."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from tests.repository import REPOSITORY
from tests.unit.rendered import (
    CLUSTERS,
    check_ray_command,
    check_shell,
    launcher_config,
    node_scripts,
    node_types_chosen,
    ray_commands,
    ray_knows,
)

from foundray.spec import ScaleConfig

LAUNCHERS = ["on-prem", "aws", "gcp"]
CLOUDS = ["aws", "gcp"]
NODE = CLUSTERS / "node"


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_command_that_the_launcher_would_run_is_one_that_ray_knows(name: str) -> None:
    config = launcher_config(name)
    for node_type in config["available_node_types"]:
        scripts = node_scripts(config, node_type)
        calls = [call for script in scripts for call in ray_commands(script)]
        assert [call[1] for call in calls if call[1] in ("stop", "start")] == ["stop", "start"]
        for script in scripts:
            check_shell(script)
        for call in calls:
            check_ray_command(call)


def test_an_option_that_ray_does_not_know_is_found() -> None:
    (call,) = ray_commands("ulimit -n 65536; A=1 ray start --adress=$RAY_HEAD_IP:6379 && true")
    with pytest.raises(click.NoSuchOption, match="--adress"):
        check_ray_command(call)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_node_asks_for_the_token_and_its_head_takes_no_work(name: str) -> None:
    config = launcher_config(name)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for setup in (config["head_setup_commands"], config["worker_setup_commands"]):
        assert setup[0] == "chmod 600 ~/.ray/auth_token" and "environment.sh" in setup[1]
    assert "export RAY_AUTH_MODE=token" in (NODE / "environment.sh").read_text()
    scripts = node_scripts(config, config["head_node_type"])
    (start,) = [script for script in scripts if "ray start" in script]
    assert "--num-cpus=0" in start or re.search(r"RAY_OVERRIDE_RESOURCES='?\{\"CPU\":0,\"GPU\":0", start), start
    assert "--dashboard-host" not in start  # so that it answers on the head alone


@pytest.mark.parametrize("name", LAUNCHERS)
def test_what_is_copied_to_nodes_is_there(name: str) -> None:
    made_by_the_user = {"dist", "~/.ray/auth_token"}
    for source in set(launcher_config(name)["file_mounts"].values()) - made_by_the_user:
        assert (REPOSITORY / source).exists(), source


@pytest.mark.parametrize("name", CLOUDS)
def test_the_autoscaler_starts_the_nodes_that_the_pools_ask_for(name: str) -> None:
    config = launcher_config(name)
    scale = ScaleConfig.model_validate(yaml.safe_load((CLUSTERS / name / "pools.yaml").read_text())["scale"])
    workers = {kind for kind in config["available_node_types"] if kind != "head"}
    assert set(scale.pools) == workers
    for kind, pool in scale.pools.items():
        most = config["available_node_types"][kind]["max_workers"]
        assert node_types_chosen(config, pool) == ({kind: most}, 0)


@pytest.mark.parametrize("name", CLOUDS)
def test_accelerators_are_named_as_ray_names_them(name: str) -> None:
    from ray.util import accelerators

    known = {value for key, value in vars(accelerators).items() if key.startswith("NVIDIA_")}
    for kind in launcher_config(name)["available_node_types"].values():
        named = {resource.removeprefix("accelerator_type:") for resource in kind["resources"] if ":" in resource}
        assert named <= known


def test_ec2_takes_the_node_types() -> None:
    """Checked against the model of its API in its client."""
    import botocore.session
    from botocore.validate import validate_parameters

    shape = botocore.session.Session().get_service_model("ec2").operation_model("RunInstances").input_shape
    types = launcher_config("aws")["available_node_types"]
    for kind in types.values():
        validate_parameters({"MinCount": 1, "MaxCount": 1, **kind["node_config"]}, shape)
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"  # IMDSv2
        assert kind["node_config"]["IamInstanceProfile"] and kind["node_config"]["SecurityGroupIds"]
    spot = {name: "InstanceMarketOptions" in kind["node_config"] for name, kind in types.items()}
    assert spot == {name: name != "head" for name in types}


def test_compute_engine_takes_the_node_types() -> None:
    """Checked against the description of its API in its client."""
    import googleapiclient.discovery_cache

    folder = Path(googleapiclient.discovery_cache.__file__).parent / "documents"
    schemas = json.loads((folder / "compute.v1.json").read_text())["schemas"]
    types = launcher_config("gcp")["available_node_types"]
    for kind in types.values():
        assert list(_unknown(kind["node_config"], {"$ref": "Instance"}, schemas)) == []
        assert kind["node_config"]["serviceAccounts"]
    assert list(_unknown({"scheduling": {"preemptable": True}}, {"$ref": "Instance"}, schemas)) == ["scheduling.preemptable"]
    spot = {name: kind["node_config"].get("scheduling", {}).get("provisioningModel") for name, kind in types.items()}
    assert spot == {name: None if name == "head" else "SPOT" for name in types}


def _unknown(value: Any, schema: dict[str, Any], schemas: dict[str, Any], where: str = "") -> Iterator[str]:
    """Fields, enumerated values and types of `value` that the schema (Google's discovery format) does not allow."""
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    if schema["type"] == "object":
        for key, field in value.items():
            inside = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            yield from _unknown(field, inside, schemas, f"{where}{key}.") if inside else [f"{where}{key}"]
    elif schema["type"] == "array":
        for field in value if isinstance(value, list) else [None]:
            yield from _unknown(field, schema["items"], schemas, where)
    elif value not in schema.get("enum", [value]) or isinstance(value, bool) != (schema["type"] == "boolean"):
        yield where + str(value)


def test_variables_that_are_set_are_ones_that_ray_reads() -> None:
    texts = [file.read_text() for file in CLUSTERS.rglob("*") if file.suffix in (".yaml", ".sh") or file.name == "Dockerfile"]
    named = {name for text in texts for name in re.findall(r"\bRAY_\w+", text)}
    assert {"RAY_AUTH_MODE", "RAY_health_check_period_ms"} <= named
    assert {name for name in named if not ray_knows(name)} == set()
    assert not ray_knows("RAY_health_check_periods_ms")


def test_every_port_that_a_definition_opens_is_in_the_table_of_what_guards_it() -> None:
    table = (CLUSTERS / "README.md").read_text()
    texts = [file.read_text() for file in CLUSTERS.rglob("*.yaml")]
    opened = {port for text in texts for port in re.findall(r"(?:containerPort: |ray start --head --port=)(\d+)", text)}
    assert {"6379", "8265"} <= opened
    assert [port for port in opened if not re.search(rf"^\| {port} \|", table, re.M)] == []


def test_no_secret_lies_in_a_definition() -> None:
    secret = re.compile(r"AKIA[A-Z0-9]{16}|PRIVATE KEY|(password|secret|token)[\"']?\s*[:=]\s*[\"']?[A-Za-z0-9+/_-]{16,}", re.I)
    assert secret.search("password: q1w2e3r4t5y6u7i8o9p0")
    for file in CLUSTERS.rglob("*"):
        if file.is_file():
            text = file.read_text()
            assert not secret.search(text), (file, secret.search(text))
            assert "0.0.0.0" not in text, file


def test_the_commands_of_the_readmes_are_ones_that_ray_knows() -> None:
    found = 0
    for file in CLUSTERS.rglob("README.md"):
        for line in re.findall(r"^    (.*)$", file.read_text(), re.M):
            for call in ray_commands(line.partition("  #")[0]):
                check_ray_command(call)
                found += 1
    assert found > 10


def test_scripts_are_clean_and_can_be_run() -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    scripts = sorted(NODE.glob("*.sh"))
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert all(os.access(script, os.X_OK) for script in scripts if script.name != "environment.sh")
    for script in scripts:
        for call in ray_commands(script.read_text()):
            check_ray_command([word.replace("$seconds", "30") for word in call])


class Metadata(http.server.BaseHTTPRequestHandler):
    """The metadata services of both clouds. Each has no notice at first, and then says that the machine goes in 100 seconds."""

    asked = 0

    def do_PUT(self) -> None:
        self._say(200, "a-session", self.path == "/latest/api/token" and "X-aws-ec2-metadata-token-ttl-seconds" in self.headers)

    def do_GET(self) -> None:
        type(self).asked += 1
        first = self.asked == 1
        if self.path == "/latest/meta-data/spot/instance-action":
            goes = datetime.now(UTC) + timedelta(seconds=100)
            notice = json.dumps({"action": "terminate", "time": goes.strftime("%Y-%m-%dT%H:%M:%SZ")})
            self._say(404 if first else 200, notice, self.headers["X-aws-ec2-metadata-token"] == "a-session")
        elif self.path == "/computeMetadata/v1/instance/preempted":
            self._say(200, "FALSE" if first else "TRUE", self.headers["Metadata-Flavor"] == "Google")

    def _say(self, status: int, text: str, allowed: bool) -> None:
        self.send_response(status if allowed else 401)
        self.end_headers()
        self.wfile.write(text.encode() if allowed else b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[str]:
    Metadata.asked = 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("cloud", "fewest", "most"), [("aws", 97, 100), ("gcp", 30, 30)])
def test_a_spot_notice_drains_the_node_in_the_time_that_is_left(
    cloud: str, fewest: int, most: int, metadata: str, tmp_path: Path
) -> None:
    shutil.copy(NODE / "spot-notice.sh", tmp_path)
    (tmp_path / "drain.sh").write_text('#!/bin/bash\necho "$@" > "$HOME/drained"\n')  # the real one needs a node of Ray
    (tmp_path / "drain.sh").chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "METADATA_URL": metadata}
    done = subprocess.run([tmp_path / "spot-notice.sh", cloud], env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert Metadata.asked == 2
    seconds, _, message = (tmp_path / "drained").read_text().partition(" ")
    assert fewest <= int(seconds) <= most and message.strip() == f"spot machine taken back by {cloud}"
