"""The consequences of a spec, computed before anything runs."""

from __future__ import annotations

import os

from foundray.data.prepare.length import known_in_steps
from foundray.data.prepare.recipe import prepared_folder, source_files
from foundray.errors import InputError
from foundray.spec import Spec
from foundray.wording.words import size


def derived(spec: Spec) -> dict[str, object]:
    """Parameters, tokens and memory, by the names that `--dry-run` prints. Raises InputError for missing sources."""
    import torch

    from foundray.host.machine import physical_cores
    from foundray.model.model import Model
    from foundray.training.default_scale import choose, with_workers
    from foundray.training.footprint import footprint
    from foundray.training.team_size import with_team

    vocabulary, certain = known_vocabulary(spec)
    start: dict[str, object] = {}
    if spec.init_from:
        spec, classes, start["init_from"] = _start(spec)
        vocabulary, certain = (vocabulary, certain) if certain else (classes, True)
    with torch.device("meta"):
        model = Model(spec.model, spec.objective.build(), spec.unit_shape(vocabulary))
    assumed = "" if certain else " (assumed: known after `foundray prepare`)"
    shape = spec.unit_shape(vocabulary)
    facts: dict[str, object] = {
        **({"vocabulary": f"{vocabulary:,}{assumed}"} if shape.classes else {"values per unit": shape.width}),
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "samples per step": f"{spec.samples_per_step:,}",
        "tokens per step": f"{spec.tokens_per_step:,}",
        **_length(spec),
        **{f"data.sources.{index}": line for index, line in enumerate(_sources(spec)) if line},
        **start,
    }
    if missing := _gpus_missing(spec):
        facts["workers"] = missing
    if base := spec.model.base:
        by = f"rates of matrices between two widths / {spec.model.width_mult:g}, branches / {spec.model.depth_mult:g}"
        facts["hyperparameters"] = f"scaled from width {base.width}, depth {base.depth} (CompleteP): {by}"
    on_gpu = any("GPU" in pool.resources for pool in spec.scale.all_pools.values())
    if spec.scale.is_open:
        choice = choose(spec, vocabulary, physical_cores())
        spec = with_workers(spec, choice.workers)
        facts["workers"] = (
            f"{choice.workers} on this machine, {choice.reason}, because scale leaves it open; one on a cluster. "
            "scale.workers sets another number, and never changes the result"
        )
    facts["threads per worker"] = _threads(spec)
    chosen: list[str] = []
    spec = with_team(spec, vocabulary, (), chosen.append)  # if the spec names the GPUs; others are seen on the cluster
    if (team := spec.scale.team_size) > 1:
        why = "".join(f" ({reason})" for reason in chosen)
        facts["teams"] = f"{team} workers hold one copy of the model between them{why}"
    for world in dict.fromkeys(spec.scale.groups):
        held = footprint(spec, vocabulary, world, on_gpu)
        facts[f"memory per worker, of {world}"] = (
            f"{size(held.weights)} weights + {size(held.gradients + held.summing)} gradients"
            f" + {size(held.optimizer)} optimizer state = {size(held.state)},"
            f" and about {size(held.activations + held.outputs + held.cast)} activations"
            + (f" ({', '.join(spec.train.saving)})" if spec.train.saving else "")
            + (f" and {size(held.gathered)} of a unit at work" if held.gathered else "")
        )
        if held.copies:
            facts[f"main memory per worker for copies of the state, of {world}"] = size(held.copies)
    return facts


def _length(spec: Spec) -> dict[str, object]:
    """Steps, tokens and fingerprint of the run; if its data say how long it is, once they are prepared."""
    epochs = spec.train.epochs
    try:
        spec = known_in_steps(spec)
    except InputError:
        return dict.fromkeys(("steps", "total tokens", "fingerprint"), f"follows from the data (train.epochs: {epochs:g})")
    steps: dict[str, object] = {"steps": f"{spec.train.steps:,} ({epochs:g} epochs)"} if epochs else {}
    return {**steps, "total tokens": f"{spec.tokens_per_step * spec.train.steps:,}", "fingerprint": spec.fingerprint()}


def _threads(spec: Spec) -> str:
    threads = spec.scale.worker_threads
    if spec.scale.threads:
        return f"{threads}; the run keeps this number, because another may round differently"
    return f"{threads}, the whole CPUs that it holds; another number may round differently, and scale.threads fixes it"


def _gpus_missing(spec: Spec) -> str | None:
    """A sentence if the spec asks for GPUs and this machine has none; a cluster may have them."""
    import torch

    asked = {name: pool.resources["GPU"] for name, pool in spec.scale.all_pools.items() if pool.resources.get("GPU")}
    if not asked or torch.cuda.device_count() or os.environ.get("RAY_ADDRESS", "local") != "local":
        return None
    name, amount = next(iter(asked.items()))
    where = f"scale.pools.{name}" if name else "scale"
    return (
        f"{where}.resources asks for {amount:g} GPU per worker, and torch finds none on this machine: use a cluster that "
        "has them (`foundray submit`, or RAY_ADDRESS)"
    )


def _start(spec: Spec) -> tuple[Spec, int, str]:
    """For a run that starts from another's weights: the spec with their hash, the vocabulary, and a description."""
    from foundray.runs.run import Run
    from foundray.training.warm_start.parent import find_start

    run = Run.named(spec)
    if run.exists() and (begun := run.as_begun(spec).init_from) and begun.weights_sha256:
        origin = f"the weights of {begun}, SHA-256 {begun.weights_sha256}, as the run began"
        return spec.model_copy(update={"init_from": begun}), int(run.manifest()["vocabulary"]), origin
    start = find_start(spec)
    return start.spec, start.classes, f"{start.summary()}; SHA-256 {start.place.weights_sha256}"


def _sources(spec: Spec) -> list[str]:
    """A line on the files of each source."""
    return [found.line(source) for source, found in zip(spec.data.sources, source_files(spec), strict=True)]


def known_vocabulary(spec: Spec) -> tuple[int, bool]:
    """Vocabulary of the spec's data, 0 for values, and whether it is certain. Raises InputError."""
    from foundray.contract import Values
    from foundray.data.prepare.manifest import Prepared
    from foundray.data.prepare.vocabulary import known_tokenizer

    folder, _, _ = prepared_folder(spec)
    if isinstance(spec.data.modality.build(), Values):
        return 0, True
    if (folder / "manifest.json").exists():
        return Prepared.open(folder).manifest.vocabulary, True
    if (tokenizer := known_tokenizer(spec)) is not None:
        return tokenizer.vocabulary, True
    return int(spec.data.tokenizer.vocab_size or 100), False
