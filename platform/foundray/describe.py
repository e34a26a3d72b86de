"""What follows from a spec, worked out before anything runs."""

from __future__ import annotations

from foundray.data.prepare import prepared_folder
from foundray.spec import Spec


def derived(spec: Spec) -> dict[str, object]:
    """Parameters, tokens and memory, by the names that `--dry-run` prints. Raises InputError for missing sources."""
    import torch

    from foundray.model.model import Model
    from foundray.training.flat import BLOCK, Layout
    from foundray.training.memory import STATES_KEPT
    from foundray.training.optimizer import state_bytes_per_block

    vocabulary, certain = _vocabulary(spec)
    told: dict[str, object] = {}
    if spec.init_from:
        spec, classes, told["init_from"] = _start(spec)
        vocabulary, certain = (vocabulary, certain) if certain else (classes, True)
    with torch.device("meta"):
        model = Model(spec.model, objective := spec.objective.build(), spec.unit_shape(vocabulary))
    layout = Layout.of(model)
    assumed = "" if certain else " (assumed: known after `foundray prepare`)"
    shape = spec.unit_shape(vocabulary)
    facts: dict[str, object] = {
        **({"vocabulary": f"{vocabulary:,}{assumed}"} if shape.classes else {"values a unit": shape.width}),
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "samples per step": f"{spec.samples_per_step:,}",
        "tokens per step": f"{spec.tokens_per_step:,}",
        "total tokens": f"{spec.tokens_per_step * spec.train.steps:,}",
        "fingerprint": spec.fingerprint(),
        **told,
    }
    if base := spec.model.base:
        by = f"rates of matrices between two widths / {spec.model.wider:g}, branches / {spec.model.deeper:g}"
        facts["hyperparameters"] = f"scaled from width {base.width}, depth {base.depth} (CompleteP): {by}"
    fewest, most = spec.scale.workers
    for world in dict.fromkeys((fewest, most)):
        share = layout.share(world)
        weights = share * world * BLOCK * (8 if objective.teaches else 4)  # and the teacher's
        gradients = share * world * BLOCK * (4 + (8 if spec.train.exact else 4))  # a micro-batch's, and the sum
        optimizer = share * state_bytes_per_block(spec.optimizer.kind)
        facts[f"memory per worker, of {world}"] = (
            f"{_size(weights)} weights + {_size(gradients)} gradients + {_size(optimizer)} optimizer state"
            f" = {_size(weights + gradients + optimizer)}, activations apart"
        )
        if world > 1:
            copies = 2 * STATES_KEPT * (weights // world + optimizer)
            facts[f"main memory per worker for copies of the state, of {world}"] = _size(copies)
    return facts


def _start(spec: Spec) -> tuple[Spec, int, str]:
    """Of a run that would start, or did, from another's weights: the spec with their hash, the vocabulary, and words."""
    from foundray.run import Run
    from foundray.training.parent import find_start

    run = Run.named(spec)
    if run.exists() and (begun := run.as_begun(spec).init_from) and begun.weights_sha256:
        told = f"the weights of {begun}, SHA-256 {begun.weights_sha256}, as the run began"
        return spec.model_copy(update={"init_from": begun}), int(run.manifest()["vocabulary"]), told
    start = find_start(spec)
    return start.spec, start.classes, f"{start.told()}; SHA-256 {start.place.weights_sha256}"


def _vocabulary(spec: Spec) -> tuple[int, bool]:
    from foundray.contract import Values
    from foundray.data import tokenizer as tokenizers
    from foundray.data.manifest import Prepared

    folder, _, _ = prepared_folder(spec)
    modality = spec.data.modality.build()
    if isinstance(modality, Values):
        return 0, True
    if modality.alphabet is not None:
        return tokenizers.make_char(modality.alphabet).vocabulary, True
    if (folder / "manifest.json").exists():
        return Prepared.open(folder).manifest.vocabulary, True
    match spec.data.tokenizer.kind:
        case "file":
            return tokenizers.load_file(spec.data.tokenizer).vocabulary, True
        case "bytes":
            return 257, True
        case "bpe":
            return int(spec.data.tokenizer.vocab_size or 0), False
        case _:
            return 100, False


def _size(count: int) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024  # type: ignore[assignment]
    return f"{count:.4g} {unit}"
