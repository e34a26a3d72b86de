"""The prompts that a run's model continues at each evaluation."""

from __future__ import annotations

from foundray.data.formats import rewritten
from foundray.data.prepare.manifest import Prepared
from foundray.data.prepare.recipe import rewrites_of
from foundray.data.stream.leases import validation_plan
from foundray.data.stream.plan import StreamPlan, read_samples
from foundray.errors import InputError
from foundray.spec import Spec
from foundray.training.evaluating.texts import PROMPT_TOKENS


def prompts_of(spec: Spec, plan: StreamPlan, prepared: Prepared) -> tuple[str, ...]:
    """Return the spec's prompts, or the first tokens of the validation split; none for a model that continues no text."""
    objective, evaluate = spec.objective.build(), spec.evaluate
    if not evaluate.text_tokens or not objective.continues or spec.data.modality.build().gives != "tokens":
        return ()
    if evaluate.prompts is not None:
        rewrites = rewrites_of(prepared.manifest.recipe, spec)
        return tuple(rewritten(prompt, rewrites) for prompt in evaluate.prompts)
    try:
        first = read_samples(validation_plan(plan, objective.couples), 0, 1).column("tokens")[0].values.to_numpy()
    except InputError:  # storage may be away for the moment; an empty prompt is one, too
        return ("",)
    document = prepared.manifest.document_id
    ids = [int(token) for token in first[: spec.model.context] if token != document][:PROMPT_TOKENS]
    return (prepared.tokenizer().decode(ids).rstrip("\ufffd"),)
