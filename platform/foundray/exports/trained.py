"""A run's model from a checkpoint, and the facts that an export publishes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundray.data.prepare.manifest import Manifest
from foundray.evaluation.encoder import model_with
from foundray.exports.destination import public_path
from foundray.model.model import Model
from foundray.runs.lineage import evaluations
from foundray.runs.run import Run
from foundray.spec import Spec
from foundray.training.checkpoints.checkpoint import MASTER, load_states, sha256_of
from foundray.training.checkpoints.memory import apart, file_in, in_files
from foundray.training.step.teacher import NAME as TEACHER


@dataclass(frozen=True)
class Trained:
    run: Run
    spec: Spec
    manifest: Manifest
    """Manifest of the data at the run's start."""
    step: int
    """Optimizer steps done."""
    model: Model
    """The model, with the teacher's weights if the objective has one, as its papers do."""
    weights_sha256: str
    """SHA-256 of the run's own weights after that step, as `status` reports it for a finished run."""

    @staticmethod
    def of(run: Run, spec: Spec, step: int | None, scratch: Path) -> Trained:
        """Load the newest complete checkpoint, or the one at `step`. Raises InputError if there is none.

        The weights stay in files of the folder `scratch`, so the model may be larger than this machine's memory.
        """
        exported = TEACHER if spec.objective.build().teaches else MASTER
        found, weights, _ = load_states(run.checkpoints, (MASTER, exported), step, run.lineage(), in_files(scratch))
        sha = sha256_of(weights[MASTER])
        own = apart(weights[exported], file_in(scratch, exported))
        model = model_with(own, run.spec(), run.manifest()["vocabulary"])
        return Trained(run, spec, Manifest.model_validate(run.manifest()), found, model.eval(), sha)

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """The event of the last evaluation at or before the step."""
        found = [event for event in evaluations(self.run.records("events.jsonl")) if event["step"] <= self.step]
        return dict(max(found, key=lambda event: event["step"])) if found else None

    def public_spec(self, defaults: bool = True) -> dict[str, Any]:
        """The spec without sections that never change the result and with public paths; `defaults` keeps default values."""
        excluded = {"scale", "fault", "tune", "storage"}
        fields = self.spec.model_dump(mode="json", exclude=excluded, exclude_defaults=not defaults)
        data, start = fields["data"], fields.get("init_from")
        paths = [(source, "path") for source in data["sources"]] + [
            (data.get("tokenizer") or {}, "path"),
            (start or {}, "run"),
        ]
        for section, name in paths:
            if section.get(name):
                section[name] = public_path(section[name])
        return fields
