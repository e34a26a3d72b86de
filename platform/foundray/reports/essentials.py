"""A spec in words."""

from __future__ import annotations

from foundray.spec import Spec
from foundray.spec.optimizers import KINDS
from foundray.wording.words import count, plural

SCHEDULES = {"wsd": "warm-up, stable, decay", "cosine": "cosine", "constant": "constant"}


def workers(scale: tuple[int, int]) -> str:
    fewest, most = scale
    return plural(fewest, "worker") if fewest == most else f"{fewest} to {most} workers"


def described(spec: Spec, parameters: int | None) -> str:
    """The spec's essentials in two sentences."""
    model, data, train = spec.model, spec.data, spec.train
    objective = spec.objective.kind.replace("_", " ")
    sources = plural(len(data.sources), "source")
    cut = f", cut by {data.tokenizer.kind}" if data.modality.kind == "text" else ""
    whole = f"{count(parameters)} parameters: " if parameters else ""
    start = f"Starts from the weights of {spec.init_from}. " if spec.init_from else ""
    optimizer = KINDS[spec.optimizer.kind].title
    sums = "summed exactly" if train.exact else "summed in fp32"
    return (
        f"Learns {objective} on {data.modality.kind} from {sources}{cut}, with {whole}width {model.width}, "
        f"depth {model.depth}, {plural(model.heads, 'head')}, context {model.context:,}. {start}Trains "
        f"{plural(train.steps, 'step')} of {spec.tokens_per_step:,} tokens by {optimizer} at a peak "
        f"rate of {spec.optimizer.lr:g} ({SCHEDULES[spec.schedule.kind]}), seed {spec.seed}, gradients {sums}, "
        f"on {workers(spec.scale.workers) if spec.scale.workers else 'as many workers as the machine has cores for'}."
    )
