"""Exports of every kind with random weights, made in a second from a run's folder without a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foundray.contract import Plan, Target, Units
from foundray.data.prepare.manifest import Manifest
from foundray.data.prepare.vocabulary import known_tokenizer
from foundray.data.stream.batch import packed
from foundray.data.tokenizers.tokenizer import Tokenizer, make_char, train_bpe
from foundray.evaluation.encoder import model_of
from foundray.exports import Exported
from foundray.exports.trained import Trained
from foundray.exports.writing import write
from foundray.model.model import Batch
from foundray.runs.run import Run
from foundray.spec import Spec
from foundray.storage import Store
from foundray.testing.specs import make_spec, write_spec
from foundray.training.checkpoints.checkpoint import write_shard
from foundray.training.checkpoints.written import CheckpointManifest, commit
from foundray.training.step.flat import FlatParameters, Layout

TEXT = "It is one of the best books, and the worst of the others. def f(x):\n    return x + 1\n" * 9
BPE: dict[str, Any] = {"data__tokenizer": {"kind": "bpe", "vocab_size": 320}}
IMAGE_MODEL: dict[str, Any] = {
    "width": 32, "depth": 2, "heads": 2, "context": 9, "class_unit": True, "norm": "ln", "act": "gelu", "rope_theta": None,
    "bias": True, "predictor": {"width": 16, "heads": 2, "depth": 2},
}  # fmt: skip
IMAGES: dict[str, Any] = {
    "objective": {"kind": "masked_pixel"},
    "data__sources": [{"path": "x", "format": "files"}],
    "data__modality": {"kind": "image", "size": 12, "patch": 4, "channels": 3},
    "model": IMAGE_MODEL,
}
GENOMES: dict[str, Any] = {
    "data__sources": [{"path": "x", "format": "fasta"}], "data__modality": {"kind": "dna"}, "data__tokenizer": {"kind": "char"},
}  # fmt: skip
STEPS = 4
AGENTS: dict[str, Any] = {
    "objective": {"kind": "next_action"},
    "data__sources": [{"path": "x", "format": "files"}],
    "data__modality": {"kind": "trajectory", "state_width": 5, "action_width": 2, "longest": 50},
    "model": {"width": 32, "depth": 2, "heads": 2, "context": 3 * STEPS, "norm": "ln", "act": "gelu", "rope_theta": None},
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": BPE | {"model__rope_theta": 500.0},
    "bytes": {},
    "characters": {"data__tokenizer": {"kind": "char"}},
    "biased": BPE | {"model__bias": True},
    "granite": BPE | {"model__base_width": 16, "model__base_depth": 1, "model__rope_theta": 500.0},
    "middle": BPE | {"objective": {"kind": "fill_in_middle"}},
    "spans": BPE | {"objective": {"kind": "span_corruption", "sentinels": 5}},
    "masked": BPE | {"objective": {"kind": "masked_token"}, "model__base_depth": 1, "model__rope_theta": 500.0},
    "genomes": GENOMES,
    "images": IMAGES,
    "agents": AGENTS,
    "grey": IMAGES | {"data__modality": {"kind": "image", "size": 12, "patch": 4, "channels": 1}},
}
"""Changes of the small spec, by kind of export."""


def tokenizer_of(spec: Spec) -> Tokenizer | None:
    """The tokenizer that preparing `TEXT` would make; None for values."""
    if spec.data.modality.kind in ("image", "trajectory"):
        return None
    made = known_tokenizer(spec)
    return made or (train_bpe([TEXT], 320) if spec.data.tokenizer.kind == "bpe" else make_char(set(TEXT)))


def trained(folder: Path, kind: str) -> Trained:
    """A run of that kind in `folder`, with weights far from zero, so that a wrong formula shows."""
    spec = make_spec(**KINDS[kind])
    tokenizer = tokenizer_of(spec)
    manifest = Manifest(
        name=kind, recipe={}, recipe_sha256="0" * 64, context=spec.model.context,
        vocabulary=tokenizer.vocabulary if tokenizer else 0, document_id=tokenizer.document_id if tokenizer else 0,
        tokenizer_sha256="", rows=0, tokens=0, quarantined=0, rows_per_group=1, shards=[],
    )  # fmt: skip
    (run := folder / "runs" / kind.replace(" ", "-")).mkdir(parents=True)
    write_spec(run, json.loads(spec.model_dump_json()))
    (run / "data.json").write_text(json.dumps({"manifest": manifest.model_dump(mode="json")}))
    if tokenizer:
        (run / "tokenizer.json").write_text(tokenizer.to_json())
    torch.manual_seed(0)
    model = model_of(spec, manifest.vocabulary).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.25 + (parameter.dim() < 2)
    # Its checkpoint, from which an export takes them.
    flat, checkpoints = FlatParameters(model, Layout.of(model), 1), Store.at(run / "checkpoints")
    shards = write_shard(checkpoints, 0, flat.blocks, {"master": flat.buffer})
    parameters = [(entry.name, list(entry.shape), entry.first) for entry in flat.layout.entries]
    commit(
        checkpoints, CheckpointManifest(step=0, fingerprint="", optimizer="adamw", parameters=parameters, shards=list(shards))
    )
    (scratch := folder / "scratch" / kind).mkdir(parents=True)
    return Trained.of(Run.open(str(run)), spec, 0, scratch)


def exported(folder: Path, kind: str, gguf: bool = False) -> tuple[Trained, Path, Exported]:
    """The run, its export's folder, and the result; with `gguf`, llama.cpp's file, too."""
    run, out = trained(folder, kind), folder / "out" / kind
    out.mkdir(parents=True)
    return run, out, write(run, out, Store.at(out), gguf)


@torch.no_grad()
def logits(run: Trained, ids: list[int]) -> torch.Tensor:
    """Our model's logits [T, classes] for ids; those of the mask token stand for the mask vector."""
    x = np.array(ids, np.int64)
    masked = x == run.manifest.vocabulary if run.spec.objective.kind == "masked_token" else None
    if masked is not None:
        x = np.where(masked, 0, x)
    shape = run.spec.unit_shape(run.manifest.vocabulary)
    plan = Plan(Units(x, None, shape), (Target("lm_head", x),), masked)
    return run.model(Batch.load(packed([plan]), torch.device("cpu")))["lm_head"][0]


@torch.no_grad()
def image_numbers(run: Trained) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Three random images [B, C, H, W], the noise that makes the stock class keep our patches, and our model's answers."""
    modality: Any = run.spec.data.modality.build()
    objective, rng, side = run.spec.objective.build(), np.random.default_rng(0), modality.size // modality.patch
    images = rng.uniform(-1, 1, (3, modality.size, modality.size, modality.channels)).astype(np.float32)
    cut = images.reshape(3, side, modality.patch, side, modality.patch, -1).transpose(0, 1, 3, 2, 4, 5)
    units = [Units(x, None, modality.shape) for x in cut.reshape(3, side**2, -1)]
    batch = Batch.load(packed([objective.plan(one, rng) for one in units]), torch.device("cpu"))
    assert batch.visible is not None
    order = torch.arange(batch.visible.shape[1]).float().expand(3, -1)
    numbers = {
        "images": torch.from_numpy(images).permute(0, 3, 1, 2),
        "noise": torch.full((3, side**2), 1e3).scatter(1, batch.visible, order),
        "pixels": run.model(batch)["pixels"],
        "states": run.model.encode(Batch.load(packed([Plan(one, ()) for one in units]), torch.device("cpu"))),
    }
    return {name: tensor.contiguous() for name, tensor in numbers.items()}, {}


@torch.no_grad()
def agent_numbers(run: Trained) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Random returns, states and actions of two trajectories [B, steps, K], and our model's next actions."""
    modality: Any = run.spec.data.modality.build()
    rng = np.random.default_rng(1)
    returns, states, actions = (rng.standard_normal((2, STEPS, k)).astype(np.float32) for k in (1, 5, 2))
    rows = zip(returns, states, actions, strict=True)
    units = [Units(modality.interleaved(r[:, 0], s, a, 3), None, modality.shape) for r, s, a in rows]
    batch = Batch.load(packed([run.spec.objective.build().plan(one, rng) for one in units]), torch.device("cpu"))
    numbers = {name: torch.from_numpy(x) for name, x in (("returns", returns), ("states", states), ("actions", actions))}
    return numbers | {"answers": run.model(batch)["action"][:, 1::3].contiguous()}, {"first_time": 3}
