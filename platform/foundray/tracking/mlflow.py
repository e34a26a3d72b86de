"""MLflow: metrics, parameters and state of a run, on a tracking server, in a database or in a folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import PrivateAttr, field_validator

from foundray.contract.tracking import Point, Position, RunInfo, Tracker
from foundray.storage import check_no_secret

ID, STEP, EVENTS = "foundray.id", "foundray.step", "foundray.events"
"""Tags: the run's id, and how far its logs were sent."""
STATES = {"finished": "FINISHED", "failed": "FAILED"}
METRICS_AT_A_TIME, PARAMETERS_AT_A_TIME = 1000, 100
"""MLflow's limits per request."""
UNUSABLE = re.compile(r"[^\w\-. :/]", re.ASCII)
"""Characters that MLflow refuses in a metric's name; a source's name may have them."""
LONGEST = 6000
"""MLflow's limit for a parameter, in characters."""


class MLflow(Tracker):
    package: ClassVar[str] = "mlflow"

    uri: str | None = None
    """Where the tracking server, database or folder is (default: as `MLFLOW_TRACKING_URI` says)."""
    experiment: str = "foundray"
    """Name of the experiment; it is made if it is not there."""
    _client: Any = PrivateAttr(None)
    _run: Any = PrivateAttr(None)

    @field_validator("uri")
    @classmethod
    def _without_secret(cls, uri: str | None) -> str | None:
        check_no_secret(uri or "")
        return uri

    def begin(self, run: RunInfo) -> Position | None:
        from mlflow import MlflowClient

        self._client = MlflowClient(self.uri)
        found = self._client.get_experiment_by_name(self.experiment)
        experiment = found.experiment_id if found else self._client.create_experiment(self.experiment)
        there = self._client.search_runs([experiment], f"tags.`{ID}` = '{run.id}'", max_results=1)
        self._run = there[0] if there else self._client.create_run(experiment, tags={ID: run.id}, run_name=run.name)
        self._client.update_run(self._run.info.run_id, status="RUNNING")
        self._log_parameters(run.spec, self._run.data.params)
        tags = self._run.data.tags
        return Position(int(tags.get(STEP, 0)), int(tags.get(EVENTS, 0)))

    def _log_parameters(self, spec: Mapping[str, Any], there: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        # A parameter cannot be changed, and fields that do not change the result may have another value now.
        new = [Param(name, str(value)[:LONGEST]) for name, value in spec.items() if name not in there]
        for start in range(0, len(new), PARAMETERS_AT_A_TIME):
            self._client.log_batch(self._run.info.run_id, params=new[start : start + PARAMETERS_AT_A_TIME])

    def send(self, points: Sequence[Point]) -> None:
        """Send points with how far they reach. A metric that is sent twice is one row, so no failure in between repeats it."""
        batch: list[Any] = []
        for point in points:
            if len(batch) + len(point.values) > METRICS_AT_A_TIME:
                self._client.log_batch(self._run.info.run_id, metrics=batch)
                batch = []
            batch += self._metrics(point)
        self._client.log_batch(self._run.info.run_id, metrics=batch, tags=self._tags(points))

    def _metrics(self, point: Point) -> list[Any]:
        from mlflow.entities import Metric

        values = {UNUSABLE.sub("_", name): value for name, value in point.values.items()}
        return [Metric(name, value, round(1000 * point.time), point.step) for name, value in values.items()]

    def _tags(self, points: Sequence[Point]) -> list[Any]:
        from mlflow.entities import RunTag

        notes = [point.note for point in points if point.note]
        last = [RunTag("foundray.note", notes[-1])] if notes else []
        position = points[-1].position
        return [*last, RunTag(STEP, str(position.step)), RunTag(EVENTS, str(position.events))]

    def end(self, state: str) -> None:
        self._client.set_terminated(self._run.info.run_id, STATES.get(state, "KILLED"))

    def where(self) -> str:
        uri = self._client.tracking_uri
        if not uri.startswith("http"):
            return f"{uri}, experiment {self.experiment}"
        return f"{uri.rstrip('/')}/#/experiments/{self._run.info.experiment_id}/runs/{self._run.info.run_id}"
