"""Checkpoints: the flat state in block ranges, without pickle and without per-rank state.

A shard file holds the master weights and the optimizer's state of one or several ranges of blocks, whose content does not
depend on the number of workers. The manifest is written last. It holds every shard's SHA-256 and ranges, which must cover
every block exactly once; a folder without one is not a checkpoint. Any number of workers can load any checkpoint.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from foundray.errors import InputError, StorageAway
from foundray.model.parametrisation import Scaling
from foundray.runs.checkpoints import MANIFEST, Checkpoint, completed, place, step_of
from foundray.runs.lineage import Lineage
from foundray.spec import Spec
from foundray.spec.arithmetic import differing
from foundray.storage import Store, sha256
from foundray.training.checkpoints.memory import Room, in_memory, stream_tensors
from foundray.training.checkpoints.unusable import Unusable
from foundray.training.checkpoints.written import CheckpointManifest, ShardFile
from foundray.training.step.blocks import Blocks, overlaps
from foundray.training.step.flat import Entry
from foundray.training.step.trainer import Trainer

MASTER = "master"
"""Name of the model's own weights among the tensors of a state."""
FILE_BYTES = 2**28
"""Most bytes of a shard's file: to read one takes that much memory beside the state."""
RETRY_SECONDS = 0.5
State = Mapping[str, Tensor | Sequence[Tensor]]
"""A shard of a run's state: each tensor [blocks * elements per block], whole or in several parts."""
T = TypeVar("T")


class Damaged(Exception):
    """A checkpoint that cannot be used, and why."""

    away = False


class Away(Damaged):
    """A checkpoint that storage cannot deliver now."""

    away = True


class Replaced(Damaged):
    """A checkpoint whose manifest is another one than was ordered: the next order names the one that is there."""

    away = True


def write_shard(
    folder: Store,
    step: int,
    blocks: Blocks,
    state: State,
    generation: int = 0,
    made_under: str = "",
) -> tuple[ShardFile, ...]:
    """Write one worker's shard of the state after `step` updates, as files of at most `FILE_BYTES`. Raises InputError.

    `state` is that of `blocks`, one range after another. `made_under` is the id of the run's last cut.
    """
    there, parts = place(folder, step, made_under), {n: [t] if isinstance(t, Tensor) else t for n, t in state.items()}
    files = -(-sum(tensor.nbytes for tensors in parts.values() for tensor in tensors) // FILE_BYTES)
    each = -(-len(blocks) // max(1, files))
    return tuple(
        _write_file(there, blocks, parts, range(start, min(start + each, len(blocks))), generation)
        for start in range(0, len(blocks), each)
    )


def _write_file(there: Store, blocks: Blocks, parts: Mapping[str, Sequence[Tensor]], some: range, generation: int) -> ShardFile:
    """Write the state of some of the blocks, given by their positions."""
    ranges = blocks.part(some.start, some.stop).ranges
    widths = {name: sum(map(len, tensors)) // len(blocks) for name, tensors in parts.items()}
    name = f"blocks-{ranges[0].start:09d}-{ranges[-1].stop:09d}.safetensors"
    with (there / name).replacing() as stream:
        size, sha = stream_tensors(stream, {n: _cut(parts[n], some.start * w, some.stop * w) for n, w in widths.items()})
    held = [(run.start, run.stop) for run in ranges]
    return ShardFile(file=name, ranges=held, bytes=size, sha256=sha, generation=generation)


def _cut(parts: Sequence[Tensor], start: int, stop: int) -> list[Tensor]:
    """The elements from `start` to `stop` of a tensor that is given in parts, in parts."""
    found = []
    for part in parts:
        if len(some := part[max(start, 0) : max(stop, 0)]):
            found.append(some)
        start, stop = start - len(part), stop - len(part)
    return found


def load(
    folder: Store, trainer: Trainer, checkpoint: Checkpoint, fingerprints: Sequence[str], wait_s: float = 0.0
) -> CheckpointManifest:
    """Load a checkpoint into the trainers of a group; each of them calls this. Returns its manifest.

    It must have been made by a spec with one of the fingerprints: the run's, or one from before it was extended.
    Storage that does not answer is retried for `wait_s` seconds. Raises Unusable, on every worker alike, if one cannot read its
    part or finds it damaged.
    """
    until, there = time.monotonic() + wait_s, place(folder, *checkpoint.name)
    problem: tuple[str, bool] | None = None
    try:
        manifest = _retrying(partial(_read_manifest, there, checkpoint.sha256), until)
        _check_made_by(there, manifest, fingerprints, trainer.spec)
        tensors = _retrying(partial(_read_blocks, there, manifest, trainer.blocks), until)
    except Damaged as error:
        problem = str(error), error.away
    if shared := next((p for p in trainer.group.share(problem) if p), None):
        raise Unusable(checkpoint, *shared)
    if len(trainer.blocks):
        trainer.load(tensors)
    trainer.gather_weights()
    return manifest


def _retrying(read: Callable[[], T], until: float) -> T:
    """Read, and retry until a time while storage is away."""
    while True:
        try:
            return read()
        except (StorageAway, Away):
            if time.monotonic() + RETRY_SECONDS > until:
                raise
        time.sleep(RETRY_SECONDS)


def load_weights(
    folder: Store, whose: str = MASTER, step: int | None = None, lineage: Lineage = (), room: Room = in_memory
) -> tuple[int, dict[str, Tensor], list[str]]:
    """Read the newest whole checkpoint: its step, its weights by name, and why newer ones were skipped. Raises InputError.

    `whose` is `master`, or `teacher`; `step` selects a checkpoint; `lineage` holds the run's cuts; `room` gives
    the memory.
    """
    done, found, skipped = load_states(folder, (whose,), step, lineage, room)
    return done, found[whose], skipped


def load_states(
    folder: Store, whose: Sequence[str], step: int | None = None, lineage: Lineage = (), room: Room = in_memory
) -> tuple[int, dict[str, dict[str, Tensor]], list[str]]:
    """Read several kinds of weights at once, like `load_weights`."""
    skipped: list[str] = []
    there = completed(folder, lineage)
    wanted = [one for one in there if step in (None, step_of(one))]
    if there and not wanted:
        steps = ", ".join(str(step_of(one)) for one in reversed(there))
        raise InputError(f"{folder} holds no complete checkpoint of step {step}; it holds those of steps {steps}")
    for one in wanted:
        try:
            manifest = _read_manifest(one)
            weights = _read_blocks(one, manifest, Blocks((range(manifest.blocks),)), whose, room)
        except Damaged as error:
            skipped.append(str(error))
            continue
        entries = [Entry(name, tuple(shape), first, 0, Scaling()) for name, shape, first in manifest.parameters]
        return manifest.step, {w: {e.name: weights[w][e.elements].view(e.shape) for e in entries} for w in whose}, skipped
    which = "no usable checkpoint" if step is None else f"no usable checkpoint of step {step:,}"
    raise InputError(f"{folder} holds {which}" + (f": {'; '.join(skipped)}" if skipped else " yet" if step is None else ""))


def read_state(folder: Store) -> tuple[CheckpointManifest, dict[str, Tensor]]:
    """Read the whole state of a checkpoint, given by its folder: its manifest, and all tensors. Raises InputError."""
    try:
        manifest = _read_manifest(folder)
        return manifest, _read_blocks(folder, manifest, Blocks((range(manifest.blocks),)))
    except Damaged as error:
        raise InputError(str(error)) from None


def state_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over a whole state's tensors in name order: the name, the kind of numbers, then the bytes."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype}".encode())
        sha.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _read_manifest(folder: Store, sha: str = "") -> CheckpointManifest:
    """Read a manifest. Raises Damaged if it is unreadable or has another SHA-256, or if its shards are not the whole state."""
    try:
        content = (folder / MANIFEST).read_bytes()
        if sha and sha256(content) != sha:
            raise Replaced(f"the {MANIFEST} of {folder.name} has been replaced")
        manifest = CheckpointManifest.model_validate_json(content)
    except StorageAway as error:
        raise Away(str(error)) from None
    except (ValidationError, InputError):
        raise Damaged(f"{folder.name} is damaged ({MANIFEST} is not readable)") from None
    if problem := manifest.problem():
        raise Damaged(f"{folder.name} is not whole ({problem})")
    return manifest


def _check_made_by(folder: Store, manifest: CheckpointManifest, fingerprints: Sequence[str], spec: Spec) -> None:
    """Raise Damaged for a checkpoint of another spec, or of another arithmetic version than those installed."""
    if manifest.fingerprint in fingerprints:
        return
    if begun := differing(manifest.arithmetic, spec):
        raise Damaged(f"{folder.name} was made with {begun}")
    raise Damaged(f"{folder.name} was made by another spec")


def _read_blocks(
    folder: Store, manifest: CheckpointManifest, blocks: Blocks, only: Sequence[str] = (), room: Room = in_memory
) -> dict[str, Tensor]:
    """Read the state of some blocks, in their order: each tensor [blocks * elements per block]; with `only`, just these.

    Beside what it returns, it takes the memory of one file.
    """
    found: dict[str, Tensor] = {}
    missing: dict[str, int] = {}
    for shard in manifest.shards:
        wanted = list(overlaps(shard.ranges, blocks))
        if not wanted:
            continue
        held = sum(stop - start for start, stop in shard.ranges)
        for name, tensor in _read_shard(folder, shard).items():
            if only and name not in only:
                continue
            if tensor.numel() % held:
                raise Damaged(f"{folder.name} is damaged ({name} in {shard.file} does not divide into {held:,} blocks)")
            width = tensor.numel() // held
            if name not in found:
                found[name], missing[name] = room(name, len(blocks) * width, tensor.dtype), len(blocks)
            if (found[name].dtype, found[name].numel()) != (tensor.dtype, len(blocks) * width):
                raise Damaged(f"{folder.name} is damaged ({name} in {shard.file} has other elements than in other files)")
            for there, here, count in wanted:
                found[name][here * width : (here + count) * width] = tensor[there * width : (there + count) * width]
                missing[name] -= count
    if lacking := next((name for name, count in missing.items() if count), None):
        raise Damaged(f"{folder.name} is damaged ({lacking} is not in all of its files)")
    return found


def _read_shard(folder: Store, shard: ShardFile) -> dict[str, Tensor]:
    try:
        content = (folder / shard.file).read_bytes()
    except StorageAway as error:
        raise Away(str(error)) from None
    except InputError as error:
        raise Damaged(f"{folder.name} is damaged ({error})") from None
    if sha256(content) != shard.sha256:
        raise Damaged(f"{folder.name} is damaged (the SHA-256 of {shard.file} is not the one in its manifest)")
    try:
        tensors: dict[str, Tensor] = safetensors.load(content)
    except SafetensorError as error:
        raise Damaged(f"{folder.name} is damaged ({shard.file}: {error})") from None
    return tensors


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
