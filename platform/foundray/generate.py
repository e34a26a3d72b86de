"""Continuing a text with a run's weights, on this machine, without Ray."""

from __future__ import annotations

import json

import torch

from foundray.contract import Plan, Units, load_objective
from foundray.data.tokenizer import Tokenizer
from foundray.errors import InputError
from foundray.model.decoder import Model
from foundray.run import Run
from foundray.training.checkpoint import load_weights


@torch.no_grad()
def generate(run: Run, prompt: str, tokens: int, temperature: float, top_k: int, seed: int) -> str:
    """Up to `tokens` more, each drawn from the `top_k` likeliest; ends early where the model ends the text.

    Temperature 0 takes the likeliest. Raises InputError for a run without a usable checkpoint or a causal head.
    """
    if temperature < 0 or top_k < 1 or tokens < 0:
        raise InputError("a temperature is at least 0, --top-k at least 1 and --tokens at least 0")
    spec = run.spec()
    manifest = json.loads((run.folder / "data.json").read_text())["manifest"]
    tokenizer = Tokenizer.from_json((run.folder / "tokenizer.json").read_text(), manifest["document_id"])
    _, weights, _ = load_weights(run.checkpoints)
    objective = load_objective(spec.objective.kind, spec.objective.model_extra or {})
    model = Model(spec.model, manifest["vocabulary"], objective.heads(manifest["vocabulary"]))
    model.load_state_dict(weights)
    generator = torch.Generator().manual_seed(seed)
    ids = [tokenizer.document_id, *tokenizer.encode([prompt])[0].tolist()]
    start = len(ids)
    while len(ids) < start + tokens:
        logits = _next_logits(model.eval(), objective, torch.tensor([ids[-spec.model.context :]]))
        if temperature == 0:
            chosen = int(logits.argmax())
        else:
            likeliest = logits.topk(min(top_k, len(logits)))
            weight = (likeliest.values / temperature).softmax(-1)
            chosen = int(likeliest.indices[torch.multinomial(weight, 1, generator=generator)])
        if chosen == tokenizer.document_id:
            break
        ids.append(chosen)
    return prompt + tokenizer.decode(ids[start:])


def _next_logits(model: Model, objective, ids: torch.Tensor) -> torch.Tensor:
    """[classes] after the last of ids [1, T]: what a training plan would ask there."""
    # A plan takes the unit after the last one too; what stands there is never looked at.
    x = torch.cat([ids, ids[:, -1:]], 1)
    units = Units(x, torch.zeros_like(x), torch.ones_like(x, dtype=torch.bool), mixed=False)
    plan: Plan = objective.plan(units, torch.Generator())
    if not plan.causal:
        raise InputError("this run's objective does not predict what comes next, so it cannot continue a text")
    return model(plan)[0][0, -1]
