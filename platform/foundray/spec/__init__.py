"""The spec: one YAML file that says everything a run depends on, checked before anything starts.

Every field's docstring is its documentation: `foundray schema` prints them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import Field, PrivateAttr, field_validator, model_validator

from foundray import contract
from foundray.spec.arithmetic import Numbers, installed, raised
from foundray.spec.evaluating import EvaluateConfig
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
from foundray.spec.running import FaultConfig, GuardConfig, PoolConfig, ScaleConfig
from foundray.spec.section import Section, nearest
from foundray.spec.starting import InitFromConfig
from foundray.spec.tuning import RangeConfig, TuneConfig

__all__ = [
    "DataConfig", "EvaluateConfig", "FaultConfig", "GuardConfig", "InitFromConfig", "ModalityConfig", "ModelConfig",
    "ObjectiveConfig", "OptimizerConfig", "PoolConfig", "RangeConfig", "ScaleConfig", "ScheduleConfig", "SourceConfig",
    "Spec", "TokenizerConfig", "TrainConfig", "TuneConfig", "differences", "digest", "flatten", "nearest",
]  # fmt: skip


NAME_LENGTH = 100
"""Characters of a name at most: file systems take 255 bytes, and names of jobs, logs and searches are made of it."""
RESERVED = {"prepared": "prepared data", "surveys": "surveys"}
"""Names that are no run's, and what lies in the folder that such a run would have."""


class Spec(Section):
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        json_schema_extra={"maxLength": NAME_LENGTH, "not": {"enum": [*RESERVED]}},
    )
    """The run's name, and its folder's in `storage`: at most 100 characters."""
    seed: int = Field(default=1337, ge=0, lt=2**63)
    """Every random number of the run follows from it."""
    data: DataConfig
    """What is learned from."""
    objective: ObjectiveConfig
    """What is hidden and predicted."""
    model: ModelConfig
    """The network's shape."""
    init_from: InitFromConfig | None = None
    """Another run whose weights this one starts from; its folder alone may be written, for its newest checkpoint."""
    optimizer: OptimizerConfig
    """How the weights move."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How the learning rate moves."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """On what the run is judged as it goes; never changes the result."""
    train: TrainConfig
    """How long, in what steps, and what is recorded."""
    scale: ScaleConfig = ScaleConfig()
    """How many workers, on what; never changes the result."""
    fault: FaultConfig = FaultConfig()
    """What is done about failures; never changes the result."""
    guard: GuardConfig = GuardConfig()
    """What is done about bad numbers."""
    tune: TuneConfig = TuneConfig()
    """How hyperparameters are searched for; never changes the result of a run."""
    storage: str = Field(default="runs", min_length=1)
    """Folder of runs and prepared data: a local path, or any URL that pyarrow's filesystems take."""
    _begun_with: Numbers | None = PrivateAttr(None)
    """Of a run's spec: the versions of the arithmetic that the run was begun with, where they are not those installed."""

    @field_validator("init_from", mode="before")
    @classmethod
    def _of_folder(cls, value: Any) -> Any:
        return {"run": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _paired(self) -> Spec:
        objective, modality = self.objective.build(), self.data.modality.build()
        if modality.gives not in objective.takes:
            works = "; ".join(f"{name}: {', '.join(found)}" for name, found in contract.pairs().items() if found)
            raise ValueError(
                f"the objective {self.objective.kind} cannot learn from the modality {self.data.modality.kind}; these go "
                f"together: {works}"
            )
        tokens = modality.gives == "tokens"
        for index, source in enumerate(self.data.sources):
            if source.format not in ("auto", *ARCHIVES) and (source.format == "files") == tokens:
                right = f"{listed(DOCUMENTS) if tokens else 'files'}, or {listed(ARCHIVES)}"
                raise ValueError(
                    f"data.sources.{index}.format: the modality {self.data.modality.kind} is read from {right}, "
                    f"not from {source.format}; leave it out, and it follows from the names of the files"
                )
        if self.model.class_unit and objective.causal:
            raise ValueError(
                f"model.class_unit: it sees all units and all see it, so {self.objective.kind}, which looks back only, would "
                "be told what is to come; it goes with objectives that look both ways"
            )
        if self.model.class_unit and tokens:
            raise ValueError(
                f"model.class_unit: a sample of {self.data.modality.kind} holds several documents, which would see each other "
                "through it; each has an opening token of its own for that"
            )
        shape = self.unit_shape(0)
        objective.heads(shape)
        if objective.couples and self.train.micro_batch_size < 2:
            raise ValueError(
                f"train.micro_batch_size: {self.objective.kind} compares the samples of a micro-batch, so it takes 2 or more"
            )
        if shape.kinds and self.model.context % len(shape.kinds):
            turns = ", ".join(kind.name for kind in shape.kinds)
            raise ValueError(f"model.context: units take turns ({turns}), so context is a multiple of {len(shape.kinds)}")
        grid = shape.grid
        if grid and self.model.context != grid[0] * grid[1]:
            raise ValueError(
                f"model.context: {self.data.modality.kind} gives {grid[0]}x{grid[1]} units, so context is {grid[0] * grid[1]}"
            )
        return self

    def name_problem(self) -> str | None:
        """Why no new run may have the name, if so. Runs that were begun before there were limits keep theirs."""
        if len(self.name) > NAME_LENGTH:
            return f"name: it has {len(self.name)} characters, and a run's name has at most {NAME_LENGTH}"
        if what := RESERVED.get(self.name.lower()):
            return f"name: {what} lie in {self.storage}/{self.name}, so no run is called that: choose another name"
        return None

    def unit_shape(self, classes: int) -> contract.UnitShape:
        """What the model sees, where the data's ids, if it has ids, are below `classes`."""
        modality = self.data.modality.build()
        return modality.shape if isinstance(modality, contract.Values) else contract.UnitShape(classes=classes)

    @property
    def samples_per_step(self) -> int:
        return self.train.micro_batches * self.train.micro_batch_size

    @property
    def tokens_per_step(self) -> int:
        """Predicted positions in a step of full samples."""
        return self.samples_per_step * self.model.context

    @property
    def arithmetic(self) -> dict[str, int]:
        """By part, the version of what it computes: those installed, or those that the run was begun with."""
        return installed(self) | dict(self._begun_with or {})

    def begun_with(self, numbers: Numbers) -> Spec:
        """The spec of a run that was begun with these versions of the arithmetic; a part that is not named was at 1."""
        begun = {name: numbers.get(name, 1) for name in (*installed(self), *numbers)}
        copy = self.model_copy()
        copy._begun_with = begun if begun != installed(self) else None
        return copy

    def identity(self) -> dict[str, Any]:
        """Every field that decides the result, flattened to dotted names: two runs are one where these are equal.

        Where the data lies is not among them, and no field that is not set. Weights of another run count by their hash, once
        that is known, and versions of the arithmetic once they have been raised.
        """
        fields = flatten(self.model_dump(mode="json"))
        # A format that follows from the names of the files counts as what stood there before it could: paths are free, too.
        found_by_name = "text" if self.data.modality.build().gives == "tokens" else "files"
        fields = {
            name: found_by_name if value == "auto" and name.endswith(".format") else value for name, value in fields.items()
        }
        if self.init_from and not self.init_from.weights_sha256:
            fields["init_from.weights_sha256"] = f"that of {self.init_from}"
        fields |= {f"arithmetic.{part}": number for part, number in raised(self.arithmetic).items()}
        return {
            name: value for name, value in fields.items() if value not in (None, _LATER.get(name)) and not _FREE.match(name)
        }

    @staticmethod
    def decides(field: str) -> bool:
        """Whether a field, by its dotted name, is one of those."""
        return not _FREE.match(field)

    def fingerprint(self) -> str:
        """SHA-256 of the identity, 16 hexadecimal digits."""
        return digest(self.identity())[:16]

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=120)


_LATER = {"model.class_unit": False, "train.compile": False}
"""Fields that came later, and the value that says what was done before: so runs from before are the same runs still."""
_FREE = re.compile(
    r"(name|init_from\.(run|step)|scale|fault|tune|evaluate|storage|guard\.(max_skipped|recheck_every)"
    r"|train\.(evaluate_every|checkpoint_every|keep_checkpoints|keep_every|keep_best)"
    r"|data\.(max_bad_rows|max_bad_share|sources\.\d+\.(path|licence)|tokenizer\.path))\b"
)


def digest(value: object) -> str:
    """SHA-256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": [1]}}` as `{"a.b.0": 1}`."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {prefix: value}
    return {
        name: leaf for key, part in items for name, leaf in flatten(part, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """One phrase for each field that differs: `optimizer.lr was 0.004 and is 0.003`."""
    names = [*there, *(name for name in here if name not in there)]
    return [
        f"{name} was {_value(there, name)} and is {_value(here, name)}" for name in names if there.get(name) != here.get(name)
    ]


def _value(fields: Mapping[str, Any], name: str) -> Any:
    """For people. A version of the arithmetic that was never raised is 1."""
    return fields.get(name, 1 if name.startswith("arithmetic.") else "not set")
