"""Folders of checkpoints: their names, which are complete, and which are kept.

`step-00000104` holds the state after 104 steps. The id of the last cut under which it was made follows if there is one
(`step-00000104-a1b2c3d4`), so that two states of one step never share files. A folder is a checkpoint once its manifest is
there, and counts unless a cut has undone its state. Nothing here needs torch.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from foundray.errors import InputError
from foundray.runs.lineage import Lineage, counted, recorded, undoes_after, undone, usable
from foundray.spec import Spec
from foundray.spec.evaluating import VALIDATION
from foundray.storage import Store, writing

MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d+)(?:-([A-Za-z0-9_.-]+))?")


class Checkpoint(NamedTuple):
    """A complete checkpoint. Its folder's name follows from step and cut."""

    step: int
    made_under: str
    sha256: str = ""
    """Of its manifest; empty if not known yet."""

    @property
    def name(self) -> tuple[int, str]:
        """What its folder's name follows from."""
        return self.step, self.made_under


def place(folder: Store, step: int, made_under: str = "") -> Store:
    return folder / (f"step-{step:08d}" + (f"-{made_under}" if made_under else ""))


def step_of(place: Store) -> int:
    """Step of a checkpoint's folder. Raises ValueError for any other folder."""
    return _number(place.name)[0]


def state_of(place: Store) -> tuple[int, str]:
    """(step, id of the last cut) of a checkpoint's folder. Raises ValueError for any other folder."""
    return _number(place.name)


def is_usable(place: Store, lineage: Lineage) -> bool:
    """Tell whether a checkpoint's state is part of a run with these cuts."""
    return usable(*_number(place.name), lineage)


def is_undone(place: Store, lineage: Lineage) -> bool:
    """Tell whether a cut has undone a checkpoint's state. One of another name than the run gives is not."""
    return undone(*_number(place.name), lineage)


def folders(folder: Store) -> list[Store]:
    """Folders of checkpoints, complete or not, newest first; steps compare as numbers of any length."""
    found = [place for place in folder.children() if _NAME.fullmatch(place.name)]
    return sorted(found, key=lambda place: _number(place.name), reverse=True)


def _completed(folder: Store, lineage: Lineage) -> Iterator[Store]:
    return (place for place in folders(folder) if is_usable(place, lineage) and (place / MANIFEST).exists())


def completed(folder: Store, lineage: Lineage = ()) -> list[Store]:
    """The complete checkpoints that are usable in a run with these cuts, newest first."""
    return list(_completed(folder, lineage))


def completed_steps(folder: Store, lineage: Lineage = ()) -> list[int]:
    """The steps of the complete and usable checkpoints, newest first."""
    return [step_of(place) for place in _completed(folder, lineage)]


def newest_step(folder: Store, lineage: Lineage = ()) -> int | None:
    """The step of the newest complete and usable checkpoint."""
    return next((step_of(place) for place in _completed(folder, lineage)), None)


def best_of(steps: Iterable[int], losses: Mapping[int, float], count: int = 1) -> list[int]:
    """Up to `count` steps with the lowest validation loss, best first; the earlier of equal ones."""
    known = [step for step in set(steps) if math.isfinite(losses.get(step, math.nan))]
    return sorted(known, key=lambda step: (losses[step], step))[:count]


def with_loss(losses: Mapping[int, float], event: Mapping[str, Any]) -> dict[int, float]:
    """Validation losses by step, after one more event: a cut undoes those of later steps."""
    if event["event"] == "evaluated" and event.get("set", VALIDATION) == VALIDATION:
        loss = event.get("compared_loss")  # over equal samples, because one evaluation's may be harder than another's
        return {**losses, event["step"]: event["val_loss"] if loss is None else loss}
    if (to := undoes_after(event)) is not None:
        return {step: loss for step, loss in losses.items() if step <= to}
    return dict(losses)


def losses_of(events: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """Validation losses by step, without those that a cut has undone."""
    losses = dict[int, float]()
    for event in counted(events):
        losses = with_loss(losses, event)
    return losses


def best_step(folder: Store, events: Iterable[Mapping[str, Any]]) -> int:
    """Step of the complete checkpoint with the lowest validation loss. Raises InputError if none has one."""
    known = list(events)
    losses = losses_of(known)
    if not (best := best_of(there := completed_steps(folder, recorded(known)), losses)):
        steps = ", ".join(f"{step:,}" for step in sorted(there)) or "none"
        raise InputError(
            f"{folder} holds no complete checkpoint with a validation loss (complete steps: {steps}); "
            "train.keep_best keeps such checkpoints"
        )
    return best[0]


@dataclass(frozen=True)
class Keep:
    """Which complete checkpoints are kept."""

    newest: int
    """Number of newest checkpoints to keep."""
    every: int | None = None
    """Milestones: checkpoints at multiples of this are kept for good."""
    best: int = 0
    """Number of checkpoints with the lowest validation loss to keep."""
    losses: Callable[[], Mapping[int, float]] = dict
    """Known validation losses by step."""
    anchors: tuple[int, ...] = ()
    """For each, the newest checkpoint at or before its last multiple is kept: a cut may undo all later ones."""
    rechecked: Callable[[], int] = int
    """The last step that a recheck has passed: the newest checkpoint at or before it is kept, for the same reason."""
    longer: int | None = None
    """The newest checkpoint at or before this step is kept: if the run is extended, it continues from there."""
    origin: int | None = None
    """The checkpoint of this step is kept, as the run has no earlier one: it branched there."""

    @classmethod
    def by(cls, spec: Spec, losses: Callable[[], Mapping[int, float]] = dict, rechecked: Callable[[], int] = int) -> Keep:
        """What a spec keeps: its own choice, and what a cut may go back to."""
        train, anchors = spec.train, tuple(filter(None, (spec.guard.roll_back,)))
        origin = spec.branch_from.step if spec.branch_from else None
        return cls(
            train.keep_checkpoints, train.keep_every, train.best_kept, losses, anchors, rechecked, spec.decay_start, origin
        )

    def of(self, steps: list[int]) -> set[int]:
        """Steps to keep, of `steps` given newest first."""
        milestones = {step for step in steps if step == self.origin or (self.every and step % self.every == 0)}
        back = [next((s for s in steps if s <= steps[0] // every * every), steps[0]) for every in self.anchors if steps]
        passed = [step for step in steps if step <= self.rechecked()][:1]
        before_decay = [step for step in steps if self.longer is not None and step <= self.longer][:1]
        return {*steps[: self.newest], *milestones, *best_of(steps, self.losses(), self.best), *back, *passed, *before_decay}


def prune(folder: Store, keep: Keep, counted: Iterable[str] | None = None) -> list[Store]:
    """Delete complete checkpoints that are not kept, and incomplete ones before the newest; return the rest, newest first.

    `counted` names folders known to be complete: other complete ones, such as those that a run skipped, do not count and
    stay. Raises InputError, after trying all, if one cannot be deleted.
    """
    names, there = set(counted or ()), folders(folder)
    whole = [place for place in there if place.name in names or (place / MANIFEST).exists()]
    complete = [place for place in whole if counted is None or place.name in names]
    newest = step_of(complete[0]) if complete else 0
    wanted = keep.of([step_of(place) for place in complete])
    left = [place for place in complete if step_of(place) in wanted]
    unfinished = [place for place in there if place not in whole and step_of(place) < newest]
    problem: InputError | None = None
    for old in [*(place for place in complete if place not in left), *unfinished]:
        try:
            delete(old)
        except InputError as error:
            problem = error
    if problem:
        raise problem
    return left


def delete(place: Store) -> None:
    """Delete a checkpoint, manifest first: an interrupted deletion leaves no checkpoint. Raises InputError."""
    manifest = place / MANIFEST
    with writing(place), contextlib.suppress(FileNotFoundError):
        place.filesystem.delete_file(manifest.path)
    place.delete_folder()


def _number(name: str) -> tuple[int, str]:
    if (match := _NAME.fullmatch(name)) is None:
        raise ValueError(f"{name} is not a checkpoint's folder")
    return int(match[1]), match[2] or ""
