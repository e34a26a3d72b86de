"""The spec: one YAML file that sets everything a run depends on, checked before anything starts.

A field's docstring is its documentation: `foundray schema` prints it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

import yaml
from pydantic import Field, PrivateAttr, field_validator, model_validator

from foundray import contract
from foundray.spec.arithmetic import Numbers, installed, raised
from foundray.spec.evaluating import VALIDATION, EvaluateConfig
from foundray.spec.filling import filled
from foundray.spec.formats import ARCHIVES, DOCUMENTS, listed
from foundray.spec.learning import (
    DataConfig,
    ModalityConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ScheduleConfig,
    SourceConfig,
    TokenizerConfig,
    TrainConfig,
)
from foundray.spec.running import FaultConfig, GuardConfig, PoolConfig, ScaleConfig, TrackerConfig
from foundray.spec.section import Filled, Section, nearest
from foundray.spec.starting import BranchFromConfig, InitFromConfig
from foundray.spec.tuning import RangeConfig, TuneConfig

__all__ = [
    "BranchFromConfig", "DataConfig", "EvaluateConfig", "FaultConfig", "GuardConfig", "InitFromConfig", "ModalityConfig",
    "ModelConfig", "ObjectiveConfig", "OptimizerConfig", "PoolConfig", "RangeConfig", "ScaleConfig", "ScheduleConfig",
    "SourceConfig", "Spec", "TokenizerConfig", "TrackerConfig", "TrainConfig", "TuneConfig", "differences", "digest",
    "flatten", "nearest",
]  # fmt: skip


NAME_LENGTH = 100
"""Longest name, in characters: file systems take 255 bytes, and names of jobs, logs and searches contain it."""
RESERVED = {"prepared": "prepared data", "surveys": "surveys"}
"""Names that a run may not have, and what their folder in `storage` holds."""


class Spec(Section):
    name: Annotated[str, Filled("the data's")] = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        json_schema_extra={"maxLength": NAME_LENGTH, "not": {"enum": [*RESERVED]}},
    )
    """Name of the run and of its folder in `storage`, at most 100 characters."""
    seed: int = Field(default=1337, ge=0, lt=2**63)
    """Determines all random numbers of the run."""
    data: DataConfig
    """The training data; a path alone stands for a single source."""
    objective: Annotated[ObjectiveConfig, Filled("by the kind of data")]
    """What is masked and predicted."""
    model: Annotated[ModelConfig, Filled("its fields'")]
    """The network's shape."""
    init_from: InitFromConfig | None = None
    """Another run whose weights this one starts from; give its folder alone for its newest checkpoint."""
    branch_from: BranchFromConfig | None = None
    """The state of another run from which this one continues, if `foundray branch` made it."""
    optimizer: Annotated[OptimizerConfig, Filled("its fields'")]
    """How the weights are updated."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How the learning rate changes over the run."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """What the run is evaluated on; never changes the result."""
    train: Annotated[TrainConfig, Filled("1,000 steps of 4 micro-batches of 8 samples")]
    """Length, steps, evaluations and checkpoints of the run."""
    scale: ScaleConfig = ScaleConfig()
    """Number of workers and their hardware; never changes the result."""
    fault: FaultConfig = FaultConfig()
    """Handling of failures; never changes the result."""
    guard: GuardConfig = GuardConfig()
    """Handling of losses and gradients that are not finite, and of loss spikes."""
    tune: TuneConfig = TuneConfig()
    """Search for hyperparameters; never changes the result of a run."""
    trackers: list[TrackerConfig] = Field(default=[])
    """Places that are sent the run's numbers, by name (`wandb`) or with options; never changes the result."""
    storage: str = Field(default="runs", min_length=1)
    """Folder of runs and prepared data: a local path, or a URL of any of pyarrow's filesystems."""
    _begun_with: Numbers | None = PrivateAttr(None)
    """Versions of the arithmetic that the run began with, if they differ from the installed ones."""

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, fields: Any) -> Any:
        return filled(fields) if isinstance(fields, Mapping) else fields

    @field_validator("trackers", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        listed = [value] if isinstance(value, str | dict) else value
        return [{"kind": one} if isinstance(one, str) else one for one in listed] if isinstance(listed, list) else value

    @model_validator(mode="after")
    def _length_in_steps(self) -> Spec:
        if self.train.tokens:
            steps = -(-self.train.tokens // self.tokens_per_step)
            object.__setattr__(self, "train", self.train.model_copy(update={"steps": steps, "tokens": None}))
        if self.train.stop_early and self.evaluate.at_end == "whole":
            raise ValueError(
                "evaluate.at_end: with train.stop_early, an evaluation is the last one only once it is made, so all are of the "
                "same samples; set evaluate.sets.validation.samples: whole instead"
            )
        if self.train.steps and (problem := self.schedule.problem(self.train.steps)):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Spec:
        for tracker in self.trackers:
            tracker.build()
        kinds = [tracker.kind for tracker in self.trackers]
        if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
            raise ValueError(
                f"trackers: {twice} is there twice; how far a tracker has the logs is kept by kind, so there is one of each"
            )
        # The objective must be able to learn from the modality.
        objective, modality = self.objective.build(), self.data.modality.build()
        if modality.gives not in objective.takes:
            works = "; ".join(f"{name}: {', '.join(found)}" for name, found in contract.pairs().items() if found)
            raise ValueError(
                f"the objective {self.objective.kind} cannot learn from the modality {self.data.modality.kind}; these "
                f"pairs work: {works}"
            )
        # Each source must have a format that the modality reads.
        tokens = modality.gives == "tokens"
        for index, source in enumerate(self.data.sources):
            if source.format not in ("auto", *ARCHIVES) and (source.format == "files") == tokens:
                right = f"{listed(DOCUMENTS) if tokens else 'files'}, or {listed(ARCHIVES)}"
                raise ValueError(
                    f"data.sources.{index}.format: the modality {self.data.modality.kind} is read from {right}, "
                    f"not from {source.format}; omit it, and the file names decide"
                )
        # A class unit needs a bidirectional objective, and one document per sample.
        if self.model.class_unit and objective.causal:
            raise ValueError(
                f"model.class_unit: it sees all units and all see it, so {self.objective.kind}, which looks back only, would "
                "see later units; it works with objectives that look both ways"
            )
        if self.model.class_unit and tokens:
            raise ValueError(
                f"model.class_unit: a sample of {self.data.modality.kind} holds several documents, which would see each other "
                "through it; use the opening token of each document instead"
            )
        # Only a model that continues text can be judged by a text's likelihood, at evaluations.
        if (self.evaluate.tasks or self.evaluate.prompts) and not (objective.continues and tokens):
            raise ValueError(
                f"evaluate.{'tasks' if self.evaluate.tasks else 'prompts'}: {self.objective.kind} on "
                f"{self.data.modality.kind} continues no text"
            )
        if self.scale.team_size > 1 and (problem := self.team_problem()):
            raise ValueError(problem)
        between = self.train.evaluate_every
        for part, named in (("tasks", self.evaluate.tasks), ("sets", self.evaluate.others)):
            for name, one in named.items():
                if one.every is not None and one.every % between:
                    where = f"evaluate.{part}.{name}.every"
                    raise ValueError(f"{where}: it is a multiple of train.evaluate_every, which is {between}")
        # What may be computed in parts.
        if self.train.loss_chunk and (objective.couples or not objective.separable):
            raise ValueError(
                f"train.loss_chunk: the loss of {self.objective.kind} is no sum over units (`separable`), as if it compares "
                "samples, so it is computed at once; omit the field"
            )
        if self.train.compile and self.train.recompute == "selective":
            raise ValueError(
                "train.recompute: selective keeps the results of single operations, which train.compile fuses; set full, or "
                "omit train.compile"
            )
        # Batch size and context must fit the objective and the units.
        shape = self.unit_shape(0)
        objective.heads(shape)
        if objective.couples and self.train.micro_batch_size < 2:
            raise ValueError(
                f"train.micro_batch_size: {self.objective.kind} compares the samples of a micro-batch, so it must be 2 or more"
            )
        if shape.kinds and self.model.context % len(shape.kinds):
            turns = ", ".join(kind.name for kind in shape.kinds)
            raise ValueError(f"model.context: units take turns ({turns}), so it must be a multiple of {len(shape.kinds)}")
        grid = shape.grid
        if grid and self.model.context != grid[0] * grid[1]:
            raise ValueError(
                f"model.context: {self.data.modality.kind} gives {grid[0]}x{grid[1]} units, so it must be {grid[0] * grid[1]}"
            )
        return self

    def name_problem(self) -> str | None:
        """Why a new run may not have this name, or None. Existing runs keep theirs."""
        if len(self.name) > NAME_LENGTH:
            return f"name: it has {len(self.name)} characters; the limit is {NAME_LENGTH}"
        if what := RESERVED.get(self.name.lower()):
            return f"name: {self.storage}/{self.name} is reserved for {what}: choose another name"
        return None

    def unit_shape(self, classes: int) -> contract.UnitShape:
        """Shape of the units that the model sees; ids, if the data has ids, are below `classes`."""
        modality = self.data.modality.build()
        return modality.shape if isinstance(modality, contract.Values) else contract.UnitShape(classes=classes)

    @property
    def samples_per_step(self) -> int:
        return self.train.micro_batches * self.train.micro_batch_size

    @property
    def decay_start(self) -> int | None:
        """Steps after which `wsd` begins to fall; None if it does not. A longer run can continue from the state there."""
        start = self.train.steps - self.schedule.decay_of(self.train.steps)
        return start if self.schedule.kind == "wsd" and 0 < start < self.train.steps else None

    def pins(self, step: int) -> bool:
        """Whether the checkpoint after this step is kept for good, or may be once its validation loss is known."""
        return self.train.pins(step) or step == self.decay_start

    @property
    def tokens_per_step(self) -> int:
        """Predicted positions per step of full samples."""
        return self.samples_per_step * self.model.context

    @property
    def arithmetic(self) -> dict[str, int]:
        """Version of the arithmetic, by part: as installed, or as the run began."""
        return installed(self) | dict(self._begun_with or {})

    def begun_with(self, numbers: Numbers) -> Spec:
        """Spec of a run that began with these versions of the arithmetic; an unnamed part was at 1."""
        begun = {name: numbers.get(name, 1) for name in (*installed(self), *numbers)}
        copy = self.model_copy()
        copy._begun_with = begun if begun != installed(self) else None
        return copy

    def identity(self) -> dict[str, Any]:
        """All fields that decide the result, flattened to dotted names: runs with equal identities are the same run.

        Excludes the location of the data and unset fields. Weights of another run count by their hash, once known, and
        versions of the arithmetic once raised above 1.
        """
        fields = flatten(self.model_dump(mode="json"))
        # `auto` counts as the explicit format from before `auto` existed; paths are excluded, too.
        auto_format = "text" if self.data.modality.build().gives == "tokens" else "files"
        fields = {
            name: auto_format if value == "auto" and name.endswith(".format") else value for name, value in fields.items()
        }
        if self.init_from and not self.init_from.weights_sha256:
            fields["init_from.weights_sha256"] = f"that of {self.init_from}"
        deciding = ("train.evaluate_every", f"evaluate.sets.{VALIDATION}.samples") if self.train.stop_early else ()
        fields |= {f"arithmetic.{part}": number for part, number in raised(self.arithmetic).items()}
        return {
            name: value
            for name, value in fields.items()
            if value not in (None, _ADDED_LATER.get(name)) and (name in deciding or not _NOT_IDENTITY.match(name))
        }

    @staticmethod
    def decides(field: str) -> bool:
        """Whether a field, by its dotted name, is part of the identity."""
        return not _NOT_IDENTITY.match(field)

    def team_problem(self) -> str:
        """What the spec asks for that a team of several workers cannot do; empty if nothing."""
        if self.train.compile:
            return "train.compile: no team of several workers compiles its layers; omit it, or set scale.team to 1"
        return ""

    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the identity."""
        return digest(self.identity())[:16]

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=120)


_ADDED_LATER = {"model.class_unit": False, "train.compile": False}
"""Fields added later, with the value for the earlier behaviour, so that the fingerprints of earlier runs do not change."""
_NOT_IDENTITY = re.compile(
    r"(name|init_from\.(run|step)|branch_from\.run|scale|fault|tune|evaluate|storage|trackers|guard\.(max_skipped|recheck_every)"
    r"|train\.(evaluate_every|checkpoint_every|keep_checkpoints|keep_every|keep_best|recompute)"
    r"|data\.(max_bad_rows|max_bad_share|sources\.\d+\.(path|licence)|tokenizer\.path))\b"
)


def digest(value: object) -> str:
    """SHA-256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested fields to dotted names: `{"a": {"b": [1]}}` to `{"a.b.0": 1}`."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {prefix: value}
    return {
        name: leaf for key, part in items for name, leaf in flatten(part, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """One phrase per field that differs: `optimizer.lr was 0.004 and is 0.003`."""
    names = [*there, *(name for name in here if name not in there)]
    return [
        f"{name} was {_value(there, name)} and is {_value(here, name)}" for name in names if there.get(name) != here.get(name)
    ]


def _value(fields: Mapping[str, Any], name: str) -> Any:
    """A field's value for a message. A version of the arithmetic that was never raised is 1."""
    return fields.get(name, 1 if name.startswith("arithmetic.") else "not set")
