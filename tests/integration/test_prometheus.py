"""A real Prometheus scrapes a run on a real cluster: every panel has data, the rules are loaded, the end is seen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chaos.run import Run
from tests.repository import REPOSITORY

import foundray as api
from foundray.cluster.local.cluster import LocalCluster
from foundray.cluster.local.node import free_ports
from foundray.testing.specs import small_spec, write_spec
from foundray.testing.waiting import wait_until

DASHBOARDS = REPOSITORY / "dashboards"
NEED_GPUS = {"GPU", "GPU memory"}
"""Panels that only have data on GPUs."""
SECONDS = 300
"""Limit on the time until every panel has data, on a busy machine."""


class Prometheus:
    """A Prometheus in its own folder, with the repository's configuration except for Ray's address and the intervals."""

    def __init__(self, folder: Path, discovery: Path):
        settings = yaml.safe_load((DASHBOARDS / "prometheus.yaml").read_text())
        settings["global"] = {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"}
        settings["rule_files"] = [str(DASHBOARDS / rules) for rules in settings["rule_files"]]
        (found,) = settings["scrape_configs"][0]["file_sd_configs"]
        found |= {"files": [str(discovery)], "refresh_interval": "1s"}
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings))
        self.address = f"127.0.0.1:{free_ports('127.0.0.1', 1)[0]}"
        options = {"config.file": folder / "prometheus.yaml", "storage.tsdb.path": folder, "web.listen-address": self.address}
        self.log = (folder / "log").open("wb")
        command = ["prometheus", *(f"--{name}={value}" for name, value in options.items()), "--log.level=warn"]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT, cwd=folder)

    def ask(self, what: str, **parameters: str) -> Any:
        with urllib.request.urlopen(
            f"http://{self.address}/api/v1/{what}?{urllib.parse.urlencode(parameters)}", timeout=10
        ) as got:
            return json.load(got)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        return list(self.ask("query", query=expression)["result"])

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.log.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Two nodes whose processes export their metrics every two seconds."""
    folder = Path(tempfile.mkdtemp(prefix="fr-"))
    os.environ["RAY_metrics_report_interval_ms"] = "2000"  # noqa: SIM112 (Ray spells it so)
    try:
        made = LocalCluster.up(2, {"CPU": 1}, folder)
        yield made
        made.down()
    finally:
        del os.environ["RAY_metrics_report_interval_ms"]  # noqa: SIM112


@pytest.fixture(scope="module")
def prometheus(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    if not shutil.which("prometheus"):
        pytest.skip("prometheus is not installed (Debian's package prometheus)")
    made = Prometheus(tmp_path_factory.mktemp("prometheus"), cluster.folder / "ray" / "prom_metrics_service_discovery.json")
    yield made
    made.close()


def queries() -> dict[str, str]:
    """Query expressions, by panel and position in it."""
    found = {}
    for file in ("run.json", "fleet.json", "data.json"):
        for panel in json.loads((DASHBOARDS / file).read_text())["panels"]:
            for target in panel.get("targets", ()):
                if panel["title"] not in NEED_GPUS:
                    expression = target["expr"].replace("$__rate_interval", "15s").replace("$run", "watched")
                    found[f"{file}: {panel['title']} {target['refId']}"] = expression
    return found


@pytest.mark.alone  # a busy node's agent may begin too late for what Ray Train exports once
@pytest.mark.thorough
def test_every_panel_shows_a_run_and_the_rules_are_loaded(
    cluster: LocalCluster, prometheus: Prometheus, prose: Path, tmp_path: Path
) -> None:
    spec = small_spec(prose, tmp_path / "runs", scale={"workers": [1, 2], "resources": {"CPU": 1}, "peak_flops": 1e11})
    spec["train"] |= {"steps": 10**6, "micro_batches": 8, "micro_batch_size": 4, "evaluate_every": 30, "checkpoint_every": 30}
    run = Run(cluster, write_spec(tmp_path, spec), "watched")
    empty = queries()

    def full() -> bool:
        for panel, query in list(empty.items()):
            if prometheus.query(query):
                del empty[panel]
        return not empty

    def lacking() -> str:
        targets = prometheus.ask("targets")["activeTargets"]
        nodes = [(node["scrapeUrl"], node["health"], node["lastError"]) for node in targets]
        return f"data for {json.dumps(empty, indent=1)}\n{nodes}"

    try:
        run.wait_for_step(1)
        wait_until(full, SECONDS, lacking, run.process, pause=1)
        api.stop(run.folder)
        done = run.wait()
    finally:
        run.end()
    assert done.facts["state"] == "stopped"

    # Its driver is gone, and its last words are heard at the next look.
    last_words = 'min(last_over_time(ray_foundray_running{run="watched"}[5m]))'
    wait_until(lambda: prometheus.query(last_words)[0]["value"][1] == "0", 20, "the driver's last words", pause=0.5)
    steps = prometheus.query('sum(last_over_time(ray_foundray_steps_total{run="watched"}[5m]))')
    assert float(steps[0]["value"][1]) == done.facts["step"]
    groups = prometheus.ask("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == 7 and {rule["health"] for rule in rules} == {"ok"}
    alerts = prometheus.ask("alerts")["alerts"]  # a rule may be pending: a run this short is mostly start-up
    assert not [alert["labels"] for alert in alerts if alert["state"] == "firing"]
