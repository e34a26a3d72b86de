"""A run's model as a checkpoint holds it, and what is told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from foundray.data.prepare.manifest import Manifest
from foundray.evaluation.encoder import model_of
from foundray.exports.place import in_public
from foundray.model.model import Model
from foundray.runs.run import Run
from foundray.spec import Spec
from foundray.training.checkpoints.checkpoint import MASTER, load_states, sha256_of
from foundray.training.step.teacher import NAME as TEACHER


@dataclass(frozen=True)
class Trained:
    run: Run
    spec: Spec
    manifest: Manifest
    """Of the data, as it was when the run began."""
    step: int
    """Optimizer steps done."""
    model: Model
    """With the teacher's weights, where the objective has one, as its papers do."""
    weights_sha256: str
    """Of the run's own weights after that step, as `status` tells it of a finished run."""

    @staticmethod
    def of(run: Run, spec: Spec, step: int | None) -> Trained:
        """After the newest step whose checkpoint is whole, or after `step`. Raises InputError where there is none."""
        model = model_of(run.spec(), run.manifest()["vocabulary"])
        shown = TEACHER if spec.objective.build().teaches else MASTER
        found, weights, _ = load_states(run.checkpoints, (MASTER, shown), step)
        sha = sha256_of(weights[MASTER])
        model.load_state_dict(weights[shown])
        return Trained(run, spec, Manifest.model_validate(run.manifest()), found, model.eval(), sha)

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """The event of the last evaluation before it, or right after it."""
        events = (event for event in self.run.records("events.jsonl") if event["event"] == "evaluated")
        return max((event for event in events if event["step"] <= self.step), key=lambda event: event["step"], default=None)

    def told(self, defaults: bool = True) -> dict[str, Any]:
        """The spec without what depends on machines and never changes the result; fields with their `defaults`, or without."""
        elsewhere = {"scale", "fault", "tune", "storage"}
        fields = self.spec.model_dump(mode="json", exclude=elsewhere, exclude_defaults=not defaults)
        data, start = fields["data"], fields.get("init_from")
        places = [(source, "path") for source in data["sources"]] + [
            (data.get("tokenizer") or {}, "path"),
            (start or {}, "run"),
        ]
        for holder, name in places:
            if holder.get(name):
                holder[name] = in_public(holder[name])
        return fields
