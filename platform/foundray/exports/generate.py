"""Continuing a text with a run's weights, on this machine, without Ray."""

from __future__ import annotations

import math

import torch

from foundray.data.tokenizers.encoding import encode_one
from foundray.errors import InputError
from foundray.evaluation.encoder import Encoder, Reader
from foundray.runs.run import Run
from foundray.training.evaluating.texts import next_logits


@torch.no_grad()
def generate(
    run: Run, prompt: str, tokens: int, temperature: float, top_k: int, seed: int, step: int | str | None = None
) -> str:
    """Continue the prompt by up to `tokens` tokens, each sampled from the `top_k` likeliest; ends when the model ends the text.

    Temperature 0 takes the likeliest. Raises InputError for a run without a usable checkpoint or a causal head.
    """
    if not 0 <= temperature < math.inf or top_k < 1 or tokens < 0:  # nan is neither
        raise InputError("--temperature must be a number of at least 0, --top-k at least 1 and --tokens at least 0")
    spec = run.spec()
    objective = spec.objective.build()
    if not objective.continues:
        raise InputError(f"{spec.objective.kind} does not predict what comes next, so it cannot continue a text")
    reader, model = Reader(run), Encoder.trained(run, step=run.checkpoint_step(step)).model
    tokenizer, classes = reader.tokenizer, reader.shape.classes
    generator = torch.Generator().manual_seed(seed)
    prompt = reader.rewritten(prompt)
    ids = [tokenizer.document_id, *encode_one(tokenizer, prompt).tolist()]
    start = len(ids)
    while len(ids) < start + tokens:
        logits = next_logits(model, ids[-spec.model.context :], classes)
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
