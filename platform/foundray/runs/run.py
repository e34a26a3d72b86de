"""A run's folder: its spec, its logs, and where it stands.

spec.yaml         the resolved spec
data.json         where its prepared data is, that data's manifest, and the arithmetic versions that the run began with
tokenizer.json
start.safetensors another run's weights, if it started from them
checkpoints/      step-00001000/ ...
events.jsonl      what happened: starts, restarts, evaluations, checkpoints, the end
metrics.jsonl     one line per step; on object stores these two are the folders events/ and metrics/, see `records`
tensorboard/
forecast.json     of its loss, if one was made before it began
probes/           results of `foundray probe`, one per task
report.html       by `foundray report`
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from heapq import merge
from typing import Any

from foundray.errors import InputError
from foundray.records.lines import Damage, damage_sentences
from foundray.records.reader import Reader
from foundray.records.writer import Writer
from foundray.runs.checkpoints import best_step, newest_step
from foundray.runs.claims import CLAIM, LOCK
from foundray.runs.facts import Facts, facts_of
from foundray.runs.lineage import Lineage, recorded
from foundray.runs.lock import HOLDER, REQUEST
from foundray.spec import InitFromConfig, Spec, differences
from foundray.spec.arithmetic import differing
from foundray.spec.loading import parse_spec
from foundray.spec.section import nearest
from foundray.storage import Store
from foundray.urls import canonical

FORECAST = "forecast.json"
LAW = ("E", "A", "B", "alpha", "beta")
"""Constants of a forecast's law."""
PROBES = "probes"
TASKS = "tasks"
"""Folder of the results of tasks."""
RECONSTRUCTIONS = "reconstructions"
"""Folder of what evaluations kept to look at."""


BEGINNING = {"spec.yaml", "data.json", "tokenizer.json", "start.safetensors", HOLDER}
"""Files of a run's beginning, which only the command that holds the run writes."""
BRANCHING = "branching"
"""File in a branch's folder until the run is there."""
_BEFORE_ITS_SPEC = BEGINNING | {BRANCHING, TASKS, "checkpoints", "events", "events.jsonl", "metrics", "metrics.jsonl"}
"""What a folder may hold, besides the lock's files, before its run has begun: a branch has a checkpoint first."""

NOT_BEGUN = "is not begun"
"""Part of the message about a run without a folder."""


class NotBegun(InputError):
    """A run's folder does not exist yet, or is being made."""


class Run:
    def __init__(self, folder: Store):
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self._damage: dict[str, list[Damage]] = {}
        self._damaged_forecast: list[str] = []

    @staticmethod
    def named(spec: Spec) -> Run:
        return Run(Store.at(spec.storage) / spec.name)

    @staticmethod
    def open(location: str) -> Run:
        """Open an existing run by its folder, or by its name in `runs/`. Raises InputError."""
        places = [Store.at(place) for place in (location, f"runs/{location}")]
        for place in places:
            if (run := Run(place)).exists():
                return run
        there = [place for place in places if place.exists()]
        if not there:
            near = nearest(location, sorted(place.name for place in Store.at("runs").children()))
            raise NotBegun(
                f"{location} is not a run's folder: the run {NOT_BEGUN}, or has another name; there is no such folder, and "
                f"none in {Store.at('runs')} (one is made once the data is prepared){near}"
            )
        if made_by_search := next(filter(None, map(_of_a_search, there)), ""):
            raise InputError(made_by_search)
        reason = f"{location} is not a run's folder: spec.yaml and data.json are not in it"
        if any(_is_being_made(place) for place in there):
            raise NotBegun(f"{reason}, so the run {NOT_BEGUN}, or the folder is not a run's; name one such as runs/shakespeare")
        raise InputError(f"{reason}; name one such as runs/shakespeare")

    def exists(self) -> bool:
        return (self.folder / "spec.yaml").exists() and (self.folder / "data.json").exists()

    def has_checkpoint(self) -> bool:
        """Whether there is a complete checkpoint that no cut has undone."""
        return newest_step(self.checkpoints, self.lineage()) is not None

    def lineage(self) -> Lineage:
        """The run's cuts, which say which checkpoints are usable."""
        return recorded(self.records("events.jsonl"))

    def checkpoint_step(self, wanted: int | str | None) -> int | None:
        """Step of the wanted checkpoint: a number as it is; `best` by validation loss. Raises InputError."""
        if wanted == "best":
            return best_step(self.checkpoints, self.records("events.jsonl"))
        if isinstance(wanted, str):
            raise InputError(f"step {wanted}: it must be a number, or best")
        return wanted

    def spec(self, overrides: dict[str, Any] | None = None) -> Spec:
        """The run's spec, adapted to where the folder is now. Raises InputError if overrides change the run.

        It has the arithmetic versions that the run began with, and thus the same fingerprint.
        """
        check_keeps_its_folder(overrides or {})
        where = self.folder / "spec.yaml"
        text = _text(where)
        here = {"storage": self.folder.parent.url, "name": self.folder.name}
        spec = parse_spec(text, str(where), {**here, **(overrides or {})}, flags=tuple(overrides or ()))
        self.check_same(spec)
        return spec.begun_with(self.arithmetic)

    @cached_property
    def arithmetic(self) -> dict[str, int]:
        """Arithmetic version per part when the run began; a part that is not named was at 1."""
        versions = self._data().get("arithmetic", {})
        if not isinstance(versions, dict) or not all(type(version) is int for version in versions.values()):
            raise InputError(f"{self.folder / 'data.json'} is damaged: its arithmetic names no versions, so restore it")
        return versions

    def check_arithmetic(self) -> None:
        """Raise InputError if this Foundray computes by other rules than the one that began the run."""
        if begun := differing(self.arithmetic, self._stored()):
            raise InputError(
                f"the run {self.folder} was begun with {begun}, so the rest of it would be computed by other rules: finish it "
                "with the Foundray that began it, or give this run another name"
            )

    def manifest(self) -> dict[str, Any]:
        """Manifest of the prepared data, as of the run's beginning."""
        manifest = self._data().get("manifest")
        if not isinstance(manifest, dict):
            raise InputError(f"{self.folder / 'data.json'} is damaged: it has no manifest of the run's data, so restore it")
        return manifest

    def data_folder(self) -> str:
        """Location of the prepared data when the run began. Raises InputError."""
        folder = self._data().get("folder")
        if not isinstance(folder, str):
            raise InputError(f"{self.folder / 'data.json'} is damaged: it names no folder of the run's data, so restore it")
        return folder

    def _data(self) -> dict[str, Any]:
        file = self.folder / "data.json"
        if (data := _json(file)) is None:
            raise InputError(f"{file} is damaged: it is not a JSON object; it says where the run's data is, so restore it")
        return data

    def as_begun(self, spec: Spec) -> Spec:
        """The spec, with the hash of this run's initial weights if it starts from the same run."""
        here, there = spec.init_from, self._stored().init_from
        return spec.model_copy(update={"init_from": there}) if here and there and _same_start(here, there) else spec

    def _stored(self) -> Spec:
        where = self.folder / "spec.yaml"
        return parse_spec(_text(where), str(where))

    def check_same(self, spec: Spec) -> None:
        """Raise InputError if the folder was made by a spec that gives another result."""
        stored = self._stored()
        here, there = _identity(self.as_begun(spec)), _identity(stored)
        if stored.scale.threads or spec.scale.threads:  # otherwise they follow from the machines, in every version
            here["scale.threads"], there["scale.threads"] = spec.scale.worker_threads, stored.scale.worker_threads
        if changed := differences(there, here):
            lengths = [fields.get("train.steps") or 0 for fields in (here, there)]
            longer = "; `foundray extend` makes it longer" if lengths[0] > lengths[1] else ""
            raise InputError(
                f"the run folder {self.folder} was made by another spec: {'; '.join(changed[:3])}"
                + (f"; and {len(changed) - 3} more" if len(changed) > 3 else "")
                + "; give this run another name, or set the fields back"
                + longer
            )

    def forecast(self, spec: Spec | None = None) -> dict[str, Any] | None:
        """Forecast of its validation loss, made before it began; None if for another spec than `spec` (default: the run's own).

        None also if the file is damaged; then `damage` says so.
        """
        file = self.folder / FORECAST
        if not file.exists():
            return None
        if (stated := _json(file)) is None or not _is_forecast(stated):
            self._damaged_forecast = [f"{file} is damaged: it is not a forecast; restore it, or delete it"]
            return None
        return stated if stated["fingerprint"] == (spec or self.spec()).fingerprint() else None

    def append(self, file: str, records: Iterable[dict[str, Any]]) -> None:
        """Append all records to `events.jsonl` or `metrics.jsonl`, or none. Raises InputError."""
        Writer(self.folder, file.removesuffix(".jsonl")).append(records)

    def records(self, file: str) -> list[dict[str, Any]]:
        """Records of `events.jsonl` or `metrics.jsonl`, or of their segments. `damage` describes damaged lines.

        Raises InputError if they cannot be read.
        """
        return list(self.each(file))

    def each(self, file: str) -> Iterator[dict[str, Any]]:
        """Yield `records` one at a time: a long run's do not fit into memory."""
        reader = Reader(self.folder, file.removesuffix(".jsonl"))
        self._damage[file] = reader.damage
        return reader.new()

    def story(self) -> Iterator[dict[str, Any]]:
        """Yield events and steps in order of time. Raises InputError, as `records`."""
        return merge(self.each("metrics.jsonl"), self.each("events.jsonl"), key=lambda record: record["time"])

    def damage(self) -> list[str]:
        """One sentence per damaged log file, as last read, and for a damaged forecast."""
        return damage_sentences([one for found in self._damage.values() for one in found]) + self._damaged_forecast

    def facts(self) -> Facts:
        facts = facts_of(self.folder, self.spec(), self.story())
        return replace(facts, damage=self.damage())


def _of_a_search(folder: Store) -> str:
    """What a search's folder or a trial's is, and what shows it; empty for any other folder."""
    is_trial = (folder / "trial.json").exists()
    search = folder.parent.parent if is_trial else folder
    if not (search / "search.json").exists():
        return ""
    what = f"{folder} is {f'a trial of the search {search}' if is_trial else 'a search'}, not a run"
    if (search / "ranking.json").exists():
        return f"{what}, and has ended: `foundray report {search}` shows how each trial did"
    return f"{what}, and has not ended: the same `foundray tune` continues it"


def _is_being_made(folder: Store) -> bool:
    """Whether a folder can become a run's in a moment, or has just done so: nothing else is in it, though it may be empty."""
    names = {file.name for file in folder.children()}
    if {"spec.yaml", "data.json"} <= names:
        return True
    return all(name in _BEFORE_ITS_SPEC or is_of_the_lock(name) for name in names)


def is_of_the_lock(name: str) -> bool:
    """Whether a file in a run's folder is the lock's, or is being written."""
    return name in (HOLDER, REQUEST, LOCK) or name.startswith(CLAIM) or name.endswith(".tmp")


def _text(file: Store) -> str:
    """Read a file's text. Raises InputError."""
    try:
        return file.read_text()
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is damaged: it is not UTF-8 text (byte {error.start})") from None


def _json(file: Store) -> dict[str, Any] | None:
    """Read a JSON object; None if the file holds none."""
    try:
        found = json.loads(file.read_text())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _is_forecast(stated: dict[str, Any]) -> bool:
    """Whether a forecast has all fields that are shown."""
    interval, law = stated.get("interval"), stated.get("law")
    if not isinstance(stated.get("fingerprint"), str) or not isinstance(interval, dict) or not isinstance(law, dict):
        return False
    numbers = [stated.get("loss"), interval.get("low"), interval.get("high"), *(law.get(name) for name in LAW)]
    return all(type(number) in (int, float) for number in numbers)


def check_keeps_its_folder(overrides: Mapping[str, Any]) -> None:
    """Raise InputError if overrides would give an existing run another folder."""
    for field in ("name", "storage"):
        if field in overrides:
            raise InputError(
                f"--set {field}=...: an existing run has its folder's name and location: rename or move the folder instead"
            )


def _identity(spec: Spec) -> dict[str, Any]:
    """Fields that decide the result, and canonical paths of the data."""
    paths = {f"data.sources.{i}.path": canonical(Store.at(source.path).url) for i, source in enumerate(spec.data.sources)}
    return spec.identity() | paths


def _same_start(here: InitFromConfig, there: InitFromConfig) -> bool:
    """Whether a spec starts from the same weights as an existing run: by hash, or by location if it has no hash."""
    if here.weights_sha256:
        return here.weights_sha256 == there.weights_sha256 and here.teacher_sha256 in (None, there.teacher_sha256)
    return there.run in urls_of(here.run) and here.step in (None, there.step)


def urls_of(location: str) -> list[str]:
    """Possible locations of a run named by its folder, or by its name in `runs/`."""
    place = location.rstrip("/")
    return [place] if "://" in place else [Store.at(place).url, Store.at(f"runs/{place}").url]


def event(name: str, **fields: Any) -> dict[str, Any]:
    """Make an event; its recorder adds the time."""
    return {"event": name, **fields}
