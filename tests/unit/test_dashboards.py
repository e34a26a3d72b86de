"""Dashboards and alert rules: made by their script, with existing metrics only, and alerting at the right time."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dashboards.make import made
from tests.repository import REPOSITORY

from foundray.training.telemetry.metrics import METRICS

DASHBOARDS = REPOSITORY / "dashboards"
ALERTS = {
    "FoundrayStalled",
    "FoundrayDriverGone",
    "FoundrayTooFewWorkers",
    "FoundrayGoodputLow",
    "FoundrayNotFinite",
    "FoundrayCheckpointOld",
    "FoundrayDataBound",
}


def panels() -> Iterator[dict[str, Any]]:
    for file in ("run.json", "fleet.json", "data.json"):
        yield from (p for p in json.loads((DASHBOARDS / file).read_text())["panels"] if p["type"] != "row")


def expressions() -> list[str]:
    boards = [json.loads((DASHBOARDS / file).read_text()) for file in ("run.json", "fleet.json", "data.json")]
    marks = [mark["expr"] for one in boards for mark in one["annotations"]["list"]]
    return marks + [target["expr"] for panel in panels() for target in panel["targets"]]


def promtool(*arguments: str | Path) -> str:
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed (Debian's package prometheus has it)")
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_files_are_what_the_script_makes() -> None:
    for name, text in made().items():
        assert (DASHBOARDS / name).read_text() == text, f"python -m dashboards.make makes another {name}"


def test_every_panel_says_what_it_shows() -> None:
    for panel in panels():
        assert panel["title"] and panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
    titles = [panel["title"] for panel in panels()]
    assert len(titles) > 40


def test_every_metric_of_a_run_is_shown_and_no_other_is_queried() -> None:
    rules = (DASHBOARDS / "alerts.yaml").read_text()
    asked = set(re.findall(r"ray_foundray_(\w+?)(?:_total|_bucket)?\b", "\n".join([*expressions(), rules])))
    assert asked == set(METRICS)


def test_every_expression_parses(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{i}", "expr": e.replace("$__rate_interval", "1m")} for i, e in enumerate(expressions())]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", tmp_path / "rules.yaml")


def test_the_rules_and_the_configuration_are_valid() -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", DASHBOARDS / "alerts.yaml")
    promtool("check", "config", DASHBOARDS / "prometheus.yaml")


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", DASHBOARDS / "alerts_test.yaml")
    groups = yaml.safe_load((DASHBOARDS / "alerts.yaml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["alert"] for rule in rules} == ALERTS
    tested = (DASHBOARDS / "alerts_test.yaml").read_text()
    for rule in rules:
        assert f'alertname="{rule["alert"]}"' in tested
        assert rule["annotations"]["summary"] and rule["annotations"]["action"]
