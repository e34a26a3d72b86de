"""All facts about a run for a page: from its folder, and from those of its data and its search."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from foundray.data.prepare.manifest import Manifest
from foundray.data.prepare.quarantine import LIST, Tally, amount, read_lines
from foundray.data.prepare.recipe import formats_of
from foundray.errors import InputError
from foundray.fetching import load_data_set
from foundray.reports.incidents import Incident, incidents
from foundray.reports.searches import RANKING, TUNED, SearchFacts, read_search
from foundray.reports.series import Clock, Records, Steps
from foundray.runs.lineage import evaluations
from foundray.runs.reconstructions import Reconstruction, read_reconstructions
from foundray.runs.run import PROBES, TASKS, Run
from foundray.spec import Spec
from foundray.spec.loading import parse_spec
from foundray.storage import Store
from foundray.tuning.forecast.forecast import Forecast
from foundray.wording.sentences import short_node
from foundray.wording.words import plural

BAD_ROWS = 1000
"""Most lines of a quarantine that are read."""


@dataclass(frozen=True)
class SourceFacts:
    """One source of a run's data."""

    path: str
    format: str
    share: float
    """Share of the samples seen in training."""
    files: int
    documents: int
    training: int
    """Samples."""
    validation: int
    tokens: int
    text_bytes: int
    quarantined: str
    """Amount that could not be used, in words; `0` for nothing."""
    empty: int
    """Rows, documents and files without content."""
    licence: str
    """Empty if unknown."""


def law_of(stated: Mapping[str, Any] | None) -> Forecast | None:
    """The law of a stored forecast."""
    if not stated:
        return None
    fields = {name: value for name, value in stated.items() if name in Forecast.__dataclass_fields__}
    return TypeAdapter(Forecast).validate_python(fields)


class Story:
    """A run, read once."""

    def __init__(self, run: Run):
        """Raises InputError if the run's spec is invalid."""
        self.run, self.spec, self.facts = run, run.spec(), run.facts()
        self.events: Records = run.records("events.jsonl")
        self.metrics: Records = run.records("metrics.jsonl")
        self.forecast = run.forecast()
        self.clock = Clock.of(self.events, self.metrics)
        self.steps = Steps.of(self.metrics)

    @property
    def name(self) -> str:
        return self.run.folder.name

    @property
    def loss_unit(self) -> str:
        return self.spec.objective.build().loss_unit

    @cached_property
    def incidents(self) -> list[Incident]:
        return incidents(self.events, self.metrics)

    @property
    def begun(self) -> float:
        """Running time at which the first recorded step began; 0 without one. Pictures leave out what is before."""
        if not self.metrics:
            return 0.0
        first = self.metrics[0]
        return max(0.0, float(self.clock.at(first["time"])) - float(first["step_s"]))

    @property
    def length(self) -> float:
        """Seconds of running time; 1 if nothing is recorded."""
        ends = [float(self.clock.at(record["time"])) for record in (*self.events[-1:], *self.metrics[-1:])]
        return max([*ends, 1.0])

    @property
    def evaluations(self) -> list[tuple[Mapping[str, Any], float]]:
        return [(event, event["val_loss"]) for event in evaluations(self.events)]

    @property
    def validation(self) -> list[tuple[int, float]]:
        """(step, loss); of a step evaluated again, the last."""
        return sorted({event["step"]: value for event, value in self.evaluations}.items())

    @cached_property
    def source_losses(self) -> dict[tuple[int, str], float]:
        """Validation loss by step and name, of sources if the data has several, and of further validation sets."""
        parts = ((event["step"], part) for event, _ in self.evaluations for part in _parts(event))
        return {(step, part["name"]): part["loss"] for step, part in parts}

    @property
    def source_names(self) -> list[str]:
        """Names of the sources, and further sets, that were evaluated one by one."""
        return list(dict.fromkeys(name for _, name in self.source_losses))

    @property
    def tasks(self) -> list[tuple[str, str, list[tuple[int, float, float | None]]]]:
        """(task, measure, [(step, value, standard error)]) of each measure of the tasks judged at evaluations."""
        found: dict[tuple[str, str], dict[int, tuple[float, float | None]]] = {}
        for event, _ in self.evaluations:
            for task in event.get("tasks") or ():
                for name, value in task["measures"].items():
                    found.setdefault((task["name"], name), {})[event["step"]] = value, task["errors"].get(name)
        return [(*key, [(step, *values[step]) for step in sorted(values)]) for key, values in found.items()]

    @property
    def texts(self) -> list[tuple[str, list[tuple[int, str]]]]:
        """(prompt, [(step, text)]) of what the model wrote at evaluations, the latest last."""
        found: dict[str, dict[int, str]] = {}
        for event, _ in self.evaluations:
            for one in event.get("texts") or ():
                found.setdefault(one["prompt"], {})[event["step"]] = one["text"]
        return [(prompt, sorted(texts.items())) for prompt, texts in found.items()]

    @property
    def looked_at(self) -> list[int]:
        """Steps of the evaluations that kept reconstructions."""
        return sorted({event["step"] for event, _ in self.evaluations if event.get("reconstructions")})

    def reconstructions(self, steps: Sequence[int]) -> dict[int, list[Reconstruction]]:
        """What these evaluations kept, by step, as far as it is there."""
        found = {step: read_reconstructions(self.run.folder, step) for step in steps}
        return {step: samples for step, samples in found.items() if samples}

    @property
    def judged(self) -> list[dict[str, Any]]:
        """Results of `foundray evaluate`, the latest last."""
        files = [file for file in (self.run.folder / TASKS).children() if file.name.endswith(".json")]
        return sorted((json.loads(file.read_text()) for file in files), key=lambda one: one["time"])

    @property
    def health(self) -> list[dict[str, Any]]:
        """The health of each layer at the last evaluation."""
        return list(self.evaluations[-1][0].get("health") or ()) if self.evaluations else []

    @property
    def health_step(self) -> int:
        return int(self.evaluations[-1][0]["step"])

    @property
    def bits_per_byte(self) -> float | None:
        return next((event["bits_per_byte"] for event, _ in reversed(self.evaluations) if "bits_per_byte" in event), None)

    @property
    def parameters(self) -> int | None:
        """Number of parameters, from the newest checkpoint."""
        for place in reversed(self.run.checkpoints.children()):
            file = place / "manifest.json"
            if file.exists() and isinstance(found := json.loads(file.read_text()).get("parameters"), list):
                return sum(prod(shape) for _, shape, _ in found)
        return None

    @property
    def law(self) -> Forecast | None:
        """The forecast's law and ladder."""
        return law_of(self.forecast)

    # Data

    @cached_property
    def manifest(self) -> Manifest | None:
        try:
            return Manifest.model_validate(self.run.manifest())
        except ValidationError:
            return None

    @property
    def sources(self) -> list[SourceFacts]:
        if not self.manifest:
            return []
        weights = [source.weight for source in self.spec.data.sources]
        return [_source(self.spec, self.manifest, index, sum(weights)) for index in range(len(weights))]

    @cached_property
    def data_folder(self) -> Store | None:
        """Folder of its prepared data: beside the run, or where it was made."""
        folder = json.loads((self.run.folder / "data.json").read_text()).get("folder")
        if not folder:
            return None
        beside = self.run.folder.parent / "prepared" / Store.at(folder).name
        return beside if beside.exists() else Store.at(folder)

    @property
    def bad_rows(self) -> list[tuple[str, str]]:
        """(reason, amount) of data that could not be used or was left out, the most first; empty if it cannot be read."""
        folder, tally = self.data_folder, Tally()
        if not folder or not self.manifest or not (self.manifest.quarantined or self.manifest.balance().notes):
            return []
        try:
            for line in islice(read_lines(folder / LIST), BAD_ROWS):
                tally.add_line(line)
        except InputError:
            return []
        found = tally.reasons()
        return [(one.reason, amount({one.unit: one.lost}) if one.lost else plural(one.lines, "note")) for one in found]

    # Probes, search and environment

    @property
    def probes(self) -> list[dict[str, Any]]:
        """Results of `foundray probe`, the latest last."""
        files = [file for file in (self.run.folder / PROBES).children() if file.name.endswith(".json")]
        return sorted((json.loads(file.read_text()) for file in files), key=lambda judged: judged["time"])

    @cached_property
    def search(self) -> SearchFacts | None:
        """Where the run's spec is what a search beside it found."""
        folder = self.run.folder.parent / f"{self.name.removesuffix('-tuned')}-tune"
        tuned, ranking = folder / TUNED, folder / RANKING
        if not (tuned.exists() and ranking.exists()):
            return None
        try:
            searched = parse_spec(tuned.read_text(), str(tuned)).begun_with(self.run.arithmetic)
            same = searched.fingerprint() == self.spec.fingerprint()
        except InputError:  # it was edited since, so it is not this run's
            same = False
        if not same:
            return None
        return read_search(folder)

    @property
    def environments(self) -> list[tuple[float, dict[str, str]]]:
        """(time, versions) of each command whose versions differ from the one before."""
        commands = [(event["time"], event["environment"]) for event in self.events if "environment" in event]
        return [one for before, one in zip([(0.0, {}), *commands], commands, strict=False) if one[1] != before[1]]

    @property
    def workers(self) -> list[tuple[str, str, int]]:
        """(node, device and hardware, workers that were ready there)."""
        ready = [event for event in self.events if event["event"] == "member_ready"]
        nodes = Counter((short_node(event["node"]), _device(event)) for event in ready)
        return [(node, device, times) for (node, device), times in nodes.items()]


def _parts(event: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What an evaluation found of single sources and of further validation sets."""
    return [*(event.get("sources") or ()), *(event.get("sets") or ())]


def _source(spec: Spec, manifest: Manifest, index: int, weights: float) -> SourceFacts:
    source, shards, balance = spec.data.sources[index], manifest.of_source(index), manifest.balance(index)
    kept, total = manifest.split(index, spec.data.holdout)
    return SourceFacts(
        path=source.path,
        format=formats_of(manifest.recipe, index, source),
        share=source.weight / weights,
        files=len({name for shard in shards for name in shard.inputs}),
        documents=balance.documents,
        training=kept,
        validation=total - kept,
        tokens=sum(shard.tokens for shard in shards),
        text_bytes=sum(shard.text_bytes for shard in shards),
        quarantined=amount(balance.lost) if balance.lost else "0",
        empty=balance.empty,
        licence=source.licence or _licence(source.path),
    )


def _licence(path: str) -> str:
    """The licence that `foundray fetch` noted beside the source's folder."""
    try:
        place = Store.at(path)
        for folder in (place, place.parent, place.parent.parent):
            note = folder.parent / f".{folder.name}.yaml"
            if folder.name and note.is_local and note.exists():
                return load_data_set(Path(note.path)).licence
    except (InputError, OSError):  # OSError is pyarrow's, for a path that is none
        pass
    return ""


def _device(event: Mapping[str, Any]) -> str:
    return ", ".join(dict.fromkeys(str(event[name]) for name in ("device", "hardware") if event.get(name)))
