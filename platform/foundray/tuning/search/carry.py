"""The transfer: the full run's spec with the values that were found, each with where it came from."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from foundray.spec import Spec, flatten
from foundray.tuning.search.batches import steps_follow
from foundray.tuning.search.proxy import with_values

LR = "optimizer.lr"
RULES = {
    "train.micro_batches": "batch size does not transfer by itself: carried as it is, with the rate found for it",
    "train.micro_batch_size": "batch size does not transfer by itself: carried as it is, with the rate found for it",
    "optimizer.weight_decay": "times the width's ratio in matrices, so that rate times decay stays (CompleteP)",
    LR: "divided by the width's ratio in matrices between two widths (CompleteP)",
    "optimizer.eps": "divided by the ratios of width and depth (CompleteP)",
}
"""What is said of how a value is carried; of others, that they are carried as they are."""


def carried(values: Mapping[str, Any], spec: Spec, found_at: int, tokens: int) -> dict[str, Any]:
    """Values found on runs of `found_at` tokens, for one of `tokens`: the best learning rate falls with the horizon.

    Everything else is carried as it is, or scaled by the model itself (`model.base_width`).
    """
    falls = {LR: values[LR] * (found_at / tokens) ** spec.tune.horizon} if LR in values else {}
    return {**values, **falls}


def tuned_yaml(
    text: str,
    overrides: Mapping[str, Any],
    spec: Spec,
    values: Mapping[str, Any],
    base: Mapping[str, int],
    found: str,
    found_at: int,
) -> str:
    """The spec's own text, with its comments, and `values` in their places, carried from runs of `found_at` tokens.

    `base` are the width and depth that they are right for; `found` says how they were found.
    """
    yaml = YAML()  # keeps comments; it makes plain maps, lists and scalars only
    yaml.width = 128
    fields = yaml.load(text)
    whole = spec.model_dump(mode="json")
    before = flatten(whole)
    for name, value in overrides.items():
        _set(fields, name, value, whole)
    _set(fields, "name", tuned_name(spec), whole)
    full = with_values(spec, values)
    tokens = full.train.steps * full.tokens_per_step
    if full.train.steps != spec.train.steps:
        _set(fields, "train.steps", full.train.steps, whole, steps_follow(spec, full))
    for name, value in carried(values, spec, found_at, tokens).items():
        rule = RULES.get(name, "carried as it is")
        if name == LR and spec.tune.horizon:
            rule = f"{values[LR]:.4g} there, times ({found_at:,}/{tokens:,})^{spec.tune.horizon:g} for the horizon; {rule}"
        _set(fields, name, value, whole, f"{found}; was {before.get(name)}; {rule}")
    for name, value in base.items():
        _set(fields, f"model.{name}", value, whole, "the proxies': rates are scaled from there to this model (CompleteP)")
    stream = io.StringIO()
    yaml.dump(fields, stream)
    return stream.getvalue()


def tuned_name(spec: Spec) -> str:
    """Of the full run with the values found."""
    return f"{spec.name}-tuned"


def _set(fields: Any, name: str, value: Any, whole: Any, comment: str | None = None) -> None:
    """Set a field, and say why beside it: sections that are written on one line get a line a field then.

    `whole` are all fields of the spec: a list of which an item is set, and which the text leaves out, comes from there.
    """
    *path, last = name.split(".")
    here, above = fields, fields
    for key in path:
        whole = whole[int(key) if isinstance(whole, list) else key]
        if isinstance(here, CommentedMap) and here.get(key) is None:
            here[key] = CommentedSeq(whole) if isinstance(whole, list) else CommentedMap()
        above, here = here, here[int(key) if isinstance(here, CommentedSeq) else key]
        if comment and isinstance(here, CommentedMap):
            here.fa.set_block_style()
    if isinstance(here, CommentedSeq):
        here.fa.set_flow_style()
        here[int(last)] = value
    else:
        here[last] = value
    if comment and isinstance(here, CommentedMap):
        here.yaml_add_eol_comment(comment, last)
    elif comment and isinstance(above, CommentedMap):
        above.yaml_add_eol_comment(comment, path[-1])
