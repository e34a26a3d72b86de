"""The transfer: the full run's spec with the values found, each with a comment on its origin."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from foundray.spec import Spec, flatten
from foundray.spec.learning import LENGTHS
from foundray.tuning.search.batches import steps_follow
from foundray.tuning.search.proxy import with_values

LR = "optimizer.lr"
TRANSFER_RULES = {
    "train.micro_batches": "batch size does not transfer by itself: carried as it is, with the rate found for it",
    "train.micro_batch_size": "batch size does not transfer by itself: carried as it is, with the rate found for it",
    "optimizer.weight_decay": "multiplied by the width ratio in matrices, which keeps rate times decay (CompleteP)",
    LR: "divided by the width ratio in matrices between two widths (CompleteP)",
    "optimizer.eps": "divided by the width and depth ratios (CompleteP)",
}
"""How a value is transferred, for comments in the tuned spec; fields not listed are carried as they are."""


def carried(values: Mapping[str, Any], spec: Spec, proxy_tokens: int, tokens: int) -> dict[str, Any]:
    """Transfer values from runs of `proxy_tokens` to a run of `tokens`: the best learning rate falls with the horizon.

    Everything else is carried as it is, or scaled by the model itself (`model.base_width`).
    """
    scaled = {LR: values[LR] * (proxy_tokens / tokens) ** spec.tune.horizon} if LR in values else {}
    return {**values, **scaled}


def tuned_yaml(
    text: str,
    overrides: Mapping[str, Any],
    spec: Spec,
    values: Mapping[str, Any],
    base: Mapping[str, int],
    found: str,
    proxy_tokens: int,
) -> str:
    """Write `values` into the spec's own text, which keeps its comments.

    The values are transferred from runs of `proxy_tokens` tokens. `base` holds the width and depth they were tuned at;
    `found` says how they were found.
    """
    yaml = YAML()  # keeps comments; it makes plain maps, lists and scalars only
    yaml.width = 128
    fields = yaml.load(text)
    whole = spec.model_dump(mode="json")
    own = flatten(whole)
    for name, value in overrides.items():
        _clear_length(fields, name)
        _set(fields, name, value, whole)
    _set(fields, "name", tuned_name(spec), whole)
    tuned = with_values(spec, values)
    tokens = tuned.train.steps * tuned.tokens_per_step
    if tuned.train.steps != spec.train.steps:
        _clear_length(fields, "train.steps")
        _set(fields, "train.steps", tuned.train.steps, whole, steps_follow(spec, tuned))
    for name, value in carried(values, spec, proxy_tokens, tokens).items():
        rule = TRANSFER_RULES.get(name, "carried as it is")
        if name == LR and spec.tune.horizon:
            rule = f"{values[LR]:.4g} there, times ({proxy_tokens:,}/{tokens:,})^{spec.tune.horizon:g} for the horizon; {rule}"
        _set(fields, name, value, whole, f"{found}; was {own.get(name)}; {rule}")
    for name, value in base.items():
        _set(fields, f"model.{name}", value, whole, "the proxies': rates scale from there to this model (CompleteP)")
    stream = io.StringIO()
    yaml.dump(fields, stream)
    return stream.getvalue()


def tuned_name(spec: Spec) -> str:
    """Name of the full run with the values found."""
    return f"{spec.name}-tuned"


def _clear_length(fields: Any, name: str) -> None:
    """Remove the length that the text gives if this field is another one."""
    section, _, field = name.partition(".")
    if section == "train" and field in LENGTHS and isinstance(fields.get("train"), CommentedMap):
        for one in LENGTHS:
            fields["train"].pop(one, None)


def _set(fields: Any, name: str, value: Any, whole: Any, comment: str | None = None) -> None:
    """Set a field, with a comment beside it; a commented section in flow style is rewritten with one line per field.

    `whole` holds all fields of the spec. A list that the text leaves out is copied from there before an item is set.
    """
    *path, last = name.split(".")
    node, parent = fields, fields
    # Walk down to the field's section, and create the sections that the text leaves out.
    for key in path:
        whole = whole[int(key) if isinstance(whole, list) else key]
        if isinstance(node, CommentedMap) and node.get(key) is None:
            node[key] = CommentedSeq(whole) if isinstance(whole, list) else CommentedMap()
        parent, node = node, node[int(key) if isinstance(node, CommentedSeq) else key]
        if comment and isinstance(node, CommentedMap):
            node.fa.set_block_style()
    # Set the value; a list stays on one line, so that its comment fits beside it.
    if isinstance(node, CommentedSeq):
        node.fa.set_flow_style()
        node[int(last)] = value
    else:
        node[last] = value
    if comment and isinstance(node, CommentedMap):
        node.yaml_add_eol_comment(comment, last)
    elif comment and isinstance(parent, CommentedMap):
        parent.yaml_add_eol_comment(comment, path[-1])
