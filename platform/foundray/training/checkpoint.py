"""Checkpoints: the flat state in block ranges, without pickle and without per-rank state.

A shard file holds the master weights and the optimizer's state of a range of blocks, and is named after the range: its
content does not depend on how many workers there were. The manifest is written last and holds every shard's SHA-256; a
folder without one is not a checkpoint. Any number of workers loads any checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from foundray.errors import InputError
from foundray.model.parametrisation import Scaling
from foundray.spec import Spec
from foundray.spec.arithmetic import differing
from foundray.storage import Store, sha256
from foundray.training.flat import Entry
from foundray.training.step import Trainer

MANIFEST = "manifest.json"
MASTER = "master"
"""The model's own weights, among the tensors of a state."""


class ShardFile(BaseModel):
    file: str
    first_block: int
    blocks: int
    bytes: int
    sha256: str


class CheckpointManifest(BaseModel):
    step: int
    """Optimizer steps done."""
    fingerprint: str
    """Of the spec that made it."""
    arithmetic: dict[str, int] = {}
    """By part, the version of what it computed; a part that is not named was at 1."""
    optimizer: str
    parameters: list[tuple[str, list[int], int]]
    """Name, shape and first block of each, in flat order."""
    shards: list[ShardFile]
    losses: list[tuple[int, float]] | None = None
    """The spike guard's window, (step, loss); None in checkpoints from before it was part of the state."""


class Damaged(Exception):
    """A checkpoint that cannot be used, and why."""


@dataclass(frozen=True)
class Restored:
    step: int
    """Steps done; 0 where there was no checkpoint."""
    skipped: list[str]
    """Why newer checkpoints were passed over."""
    losses: list[tuple[int, float]] | None = None
    """The spike guard's window that belongs to the state; None where the checkpoint does not hold it."""


def write_shard(folder: Store, step: int, blocks: range, tensors: dict[str, Tensor]) -> ShardFile:
    """Write one worker's piece of the state after `step` updates. Raises InputError."""
    content = safetensors.save(tensors)
    name = f"blocks-{blocks.start:09d}-{blocks.stop:09d}.safetensors"
    (place(folder, step) / name).write_bytes(content)
    return ShardFile(file=name, first_block=blocks.start, blocks=len(blocks), bytes=len(content), sha256=sha256(content))


def commit(folder: Store, manifest: CheckpointManifest, keep: int) -> None:
    """Make the checkpoint complete, now that all its shards are written; drop all but the newest. Raises InputError."""
    target = place(folder, manifest.step)
    (target / MANIFEST).write_text(manifest.model_dump_json(indent=1))
    for old in completed(folder)[keep:]:
        old.delete_folder()


def place(folder: Store, step: int) -> Store:
    return folder / f"step-{step:08d}"


def completed(folder: Store) -> list[Store]:
    """The complete checkpoints, newest first."""
    return [place for place in reversed(folder.children()) if (place / MANIFEST).exists()]


def completed_steps(folder: Store) -> list[int]:
    """The steps of the complete checkpoints, newest first."""
    return [step_of(place) for place in completed(folder)]


def step_of(place: Store) -> int:
    return int(place.name.removeprefix("step-"))


def load_latest(folder: Store, trainer: Trainer, fingerprint: str) -> Restored:
    """Load the newest checkpoint that all workers find whole. Raises InputError where there are only damaged ones."""
    skipped: list[str] = []
    for place in completed(folder):
        problem = None
        try:
            manifest = _read_manifest(place)
            _check_made_by(place, manifest, fingerprint, trainer.spec)
            tensors = _read_blocks(place, manifest, trainer.blocks)
        except Damaged as error:
            problem = str(error)
        if problem := next((p for p in trainer.group.share(problem) if p), None):
            skipped.append(problem)
            continue
        if trainer.blocks:
            trainer.load(tensors)
        trainer.gather_weights()
        return Restored(manifest.step, skipped, manifest.losses)
    if skipped:
        raise InputError(f"no checkpoint in {folder} can be used: {'; '.join(skipped)}; delete the folder to start over")
    return Restored(0, [])


def load_weights(folder: Store, whose: str = MASTER, step: int | None = None) -> tuple[int, dict[str, Tensor], list[str]]:
    """The newest whole checkpoint's step and weights by name, and why newer ones were passed over. Raises InputError.

    `whose` are the model's own, or those of its `teacher`; with `step`, that checkpoint's.
    """
    done, found, skipped = load_states(folder, (whose,), step)
    return done, found[whose], skipped


def load_states(
    folder: Store, whose: Sequence[str], step: int | None = None
) -> tuple[int, dict[str, dict[str, Tensor]], list[str]]:
    """The same of several at once."""
    skipped: list[str] = []
    there = completed(folder)
    places = [place for place in there if step in (None, step_of(place))]
    if there and not places:
        steps = ", ".join(str(step_of(place)) for place in reversed(there))
        raise InputError(f"{folder} holds no complete checkpoint of step {step}; there are those of the steps {steps}")
    for place in places:
        try:
            manifest = _read_manifest(place)
            blocks = max(s.first_block + s.blocks for s in manifest.shards)
            weights = _read_blocks(place, manifest, range(blocks), whose)
        except Damaged as error:
            skipped.append(str(error))
            continue
        entries = [Entry(name, tuple(shape), first, 0, Scaling()) for name, shape, first in manifest.parameters]
        return manifest.step, {w: {e.name: weights[w][e.elements].view(e.shape) for e in entries} for w in whose}, skipped
    which = "no usable checkpoint" if step is None else f"no usable checkpoint of step {step:,}"
    raise InputError(f"{folder} holds {which}" + (f": {'; '.join(skipped)}" if skipped else " yet" if step is None else ""))


def _read_manifest(place: Store) -> CheckpointManifest:
    try:
        return CheckpointManifest.model_validate_json((place / MANIFEST).read_bytes())
    except (ValidationError, InputError):
        raise Damaged(f"{place.name} is damaged ({MANIFEST} is not readable)") from None


def _check_made_by(place: Store, manifest: CheckpointManifest, fingerprint: str, spec: Spec) -> None:
    """Raises Damaged for a checkpoint of another spec, or of other rules of computing than those installed."""
    if manifest.fingerprint == fingerprint:
        return
    if begun := differing(manifest.arithmetic, spec):
        raise Damaged(f"{place.name} was made with {begun}")
    raise Damaged(f"{place.name} was made by another spec")


def _read_blocks(place: Store, manifest: CheckpointManifest, blocks: range, only: Sequence[str] = ()) -> dict[str, Tensor]:
    """The state of some blocks: each tensor [blocks * elements a block], or `only` those of these names."""
    parts: dict[str, list[Tensor]] = {}
    for shard in sorted(manifest.shards, key=lambda s: s.first_block):
        start, stop = max(blocks.start, shard.first_block), min(blocks.stop, shard.first_block + shard.blocks)
        if start >= stop:
            continue
        tensors = _read_shard(place, shard)
        for name, tensor in ((n, t) for n, t in tensors.items() if n in only or not only):
            width = tensor.numel() // shard.blocks
            parts.setdefault(name, []).append(tensor[(start - shard.first_block) * width : (stop - shard.first_block) * width])
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


def _read_shard(place: Store, shard: ShardFile) -> dict[str, Tensor]:
    try:
        content = (place / shard.file).read_bytes()
    except InputError as error:
        raise Damaged(f"{place.name} is damaged ({error})") from None
    if sha256(content) != shard.sha256:
        raise Damaged(f"{place.name} is damaged (the SHA-256 of {shard.file} is not the one in its manifest)")
    try:
        return safetensors.load(content)
    except SafetensorError as error:
        raise Damaged(f"{place.name} is damaged ({shard.file}: {error})") from None


def sha256_of(weights: Mapping[str, Tensor]) -> str:
    """`weights_sha256` of parameters by name, in name order."""
    return weights_sha256(iter(sorted(weights.items())))


def weights_sha256(weights: Iterator[tuple[str, Tensor]]) -> str:
    """SHA-256 over the parameters in the order given: the UTF-8 name, then the little-endian fp32 bytes."""
    sha = hashlib.sha256()
    for name, tensor in weights:
        sha.update(name.encode())
        sha.update(tensor.contiguous().numpy().astype("<f4", copy=False).tobytes())
    return sha.hexdigest()
