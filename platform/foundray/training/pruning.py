"""`foundray prune`: checkpoints that nothing needs any more.

What `resume`, `extend`, roll-backs and `--step best` need stays: see `Keep`. Prepared data, logs and results are not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from foundray.errors import InputError
from foundray.runs.checkpoints import MANIFEST, Keep, delete, folders, is_undone, is_usable, losses_of, step_of
from foundray.runs.lineage import recorded
from foundray.runs.listing import bytes_of
from foundray.runs.lock import RunLock, is_held
from foundray.runs.rechecks import last_rechecked
from foundray.runs.run import Run
from foundray.storage import Store
from foundray.training.checkpoints.written import CheckpointManifest
from foundray.training.rollback import recorded as roll_backs
from foundray.training.rollback import undone_to
from foundray.wording.words import plural, size


@dataclass(frozen=True)
class Removal:
    """A checkpoint's folder that can be deleted."""

    folder: Store
    bytes: int
    why: str

    def to_dict(self) -> dict[str, Any]:
        return {"folder": self.folder.url, "bytes": self.bytes, "why": self.why}


def prune(location: str, delete_them: bool, report: Callable[[str], None]) -> list[Removal]:
    """Find what the run, or each run of the storage folder, does not need, and delete it if asked.

    A run that cannot be read or changed is reported and left as it is. Raises InputError if it is the only one.
    """
    found: list[Removal] = []
    runs = _runs_at(location)
    for run in runs:
        try:
            if is_held(run.folder):
                report(f"{run.folder}: a command is running it, which prunes by itself")
            elif delete_them:
                found += _deleted(run, report)  # what it yields before an error counts
            else:
                found += removable(run)
        except InputError as error:
            if len(runs) == 1:
                raise
            report(f"{run.folder} is left as it is now: {error}")
    return found


def _deleted(run: Run, report: Callable[[str], None]) -> Iterator[Removal]:
    """Delete what the run does not need, one after another."""
    if not removable(run):  # so that a run that cannot be written to, and has nothing to delete, needs no lock
        return
    with RunLock(run.folder, report):
        for one in removable(run):
            delete(one.folder)
            report(f"deleted {one.folder}: {one.why}")
            yield one


def removable(run: Run) -> list[Removal]:
    """The run's checkpoints that nothing needs, newest first. Raises InputError."""
    spec, events = run.spec(), run.records("events.jsonl")
    losses = losses_of(events)
    lineage, there = recorded(events), folders(run.checkpoints)
    complete = [one for one in there if (one / MANIFEST).exists()]
    usable = [one for one in complete if is_usable(one, lineage)]
    passed = undone_to(roll_backs(events), last_rechecked(run.story()))
    keep = Keep.by(spec, lambda: losses, lambda: passed)
    if run.facts().state == "finished" and usable and _is_whole(usable[0]):
        keep = replace(keep, newest=1)
    steps = [step_of(one) for one in usable]
    # What an extended run would need: the state that it continues from, and those that a cut may go back to from there.
    before_decay = [step for step in steps if keep.longer is not None and step <= keep.longer]
    wanted = keep.of(steps) | replace(keep, newest=1).of(before_decay)
    reasons: dict[int, str] = {}
    for index, one in enumerate(there):
        if one not in complete:
            reasons[index] = "it was never completed"
        elif is_undone(one, lineage):
            reasons[index] = "a roll-back, or an extension of the run, has undone it"
        elif one in usable and step_of(one) not in wanted:
            reasons[index] = "later ones, or better ones, are kept"
    return [Removal(there[index], bytes_of(there[index]), why) for index, why in reasons.items()]


def _is_whole(checkpoint: Store) -> bool:
    """Whether a checkpoint's files are there in the sizes that its manifest names; they are not read."""
    try:
        manifest = CheckpointManifest.model_validate_json((checkpoint / MANIFEST).read_bytes())
    except (ValidationError, InputError):
        return False
    sizes = checkpoint.files()
    return not manifest.problem() and all(sizes.get(shard.file) == shard.bytes for shard in manifest.shards)


def _runs_at(location: str) -> list[Run]:
    """The run of this name or folder, or all runs of the storage folder. Raises InputError."""
    for place in (location, f"runs/{location}"):
        if (run := Run(Store.at(place))).exists():
            return [run]
    if not (storage := Store.at(location)).exists():
        raise InputError(f"{location} is neither a run nor a storage folder: name one, such as runs")
    return [run for run in map(Run, storage.children()) if run.exists()]


def summary(found: Sequence[Removal], deleted: bool) -> str:
    """What was found, or done."""
    room = f"{plural(len(found), 'checkpoint')}, {size(sum(one.bytes for one in found))}"
    if deleted:
        return f"deleted: {room}"
    return f"can be deleted: {room}" + ("; --yes deletes them" if found else "")
