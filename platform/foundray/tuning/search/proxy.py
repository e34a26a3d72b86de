"""Proxies: smaller models that train on the same data in the same steps, to find good hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from foundray.data.prepare.recipe import prepared_folder
from foundray.errors import InputError
from foundray.model.flops import parameters_of
from foundray.spec import ModelConfig, RangeConfig, ScheduleConfig, Spec, flatten, nearest
from foundray.spec.loading import checked, set_field

FIXED = {
    "model.width": "tune.proxy sets a proxy's size",
    "model.depth": "tune.proxy sets a proxy's size",
    "model.heads": "heads keep their size",
    "model.base_width": "rates are scaled by it",
    "model.base_depth": "rates are scaled by it",
    "model.context": "all trials share the prepared data",
    "train.steps": "the horizon does not transfer, and tokens are the budget",
    "train.tokens": "the horizon does not transfer, and tokens are the budget",
    "train.epochs": "the horizon does not transfer, and tokens are the budget",
    "train.exact": "it is not a hyperparameter",
    "train.compile": "it is not a hyperparameter",
    "data.holdout": "all trials share the validation split",
    "init_from": "a proxy's size differs from those weights'",
    "objective": "losses of different objectives do not compare",
    "seed": "it is chance, not quality",
}
"""Fields that cannot be searched, and why."""


def proxy_of(spec: Spec) -> Spec:
    """The spec at proxy size and the run's length, with the proxy as the base of its values. Raises InputError."""
    targets, full = spec.tune.proxy, spec.model
    size = full.width // full.heads
    width = targets.width or full.base_width or max(1, round(full.width / 4 / size)) * size
    depth = targets.depth or full.base_depth or max(1, full.depth // 2)
    if width > full.width or depth > full.depth:
        raise InputError(
            f"tune.proxy: a proxy of width {width} and depth {depth} is larger than the run's model, of width {full.width} and "
            f"depth {full.depth}; choose a smaller one"
        )
    try:
        narrow = full.of_width(width)
    except ValueError as error:
        raise InputError(f"tune.proxy.width: {error}") from None
    base = {"base_width": full.base_width or width, "base_depth": full.base_depth or depth}
    return at_size(spec, narrow.model_copy(update={"depth": depth, **base}), spec.train.steps)


def at_size(spec: Spec, model: ModelConfig, steps: int) -> Spec:
    """The spec with another model and number of steps, on one worker."""
    scale = spec.scale.model_copy(update={"workers": (1, 1), "pools": {}, "threads": spec.scale.worker_threads})
    train = spec.train.model_copy(update={"steps": steps})
    schedule = _in_proportion(spec.schedule, spec.train.steps)
    return spec.model_copy(update={"model": model, "train": train, "scale": scale, "schedule": schedule})


def _in_proportion(schedule: ScheduleConfig, steps: int) -> ScheduleConfig:
    """The schedule of a run of `steps` in fractions, so that a shorter one has the same shape."""
    fractions = {
        name: {name: count / steps, f"{name}_steps": None}
        for name, count in (("warmup", schedule.warmup_steps), ("decay", schedule.decay_steps))
        if count is not None
    }
    return schedule.model_copy(update={field: value for part in fractions.values() for field, value in part.items()})


def with_values(spec: Spec, values: Mapping[str, Any]) -> Spec:
    """The spec with some fields set; a larger batch makes fewer steps of the same tokens. Raises InputError."""
    fields = spec.model_dump(mode="json")
    for name, value in values.items():
        set_field(fields, name, value, "tune.space")
    found = checked(Spec, fields, "tune.space")
    steps = max(1, round(spec.train.steps * spec.samples_per_step / found.samples_per_step))
    return found.model_copy(update={"train": found.train.model_copy(update={"steps": steps})})


def space_of(spec: Spec) -> dict[str, RangeConfig]:
    """The checked search space. Raises InputError for a field that does not exist, cannot vary or cannot have a value."""
    space = spec.tune.space or default_space(spec)
    known = [name for name in flatten(spec.model_dump(mode="json")) if Spec.decides(name)]
    data, _, _ = prepared_folder(spec)
    for name, values in space.items():
        if not Spec.decides(name):
            raise InputError(f"tune.space: {name} never changes the result, so it cannot be searched")
        if why := FIXED.get(name) or FIXED.get(name.partition(".")[0]):
            raise InputError(f"tune.space: {name} cannot vary: {why}")
        if name not in known:
            raise InputError(f"tune.space: {name} is not a field of the spec that can vary{nearest(name, known)}")
        if spec.tune.sampler == "grid" and values.choice is None:
            raise InputError(f"tune.space.{name}: a grid needs choices: write choice: [...]")
        for value in values.ends:
            if prepared_folder(with_values(spec, {name: value}))[0].path != data.path:
                raise InputError(f"tune.space: {name} cannot vary: it changes the prepared data, which all trials share")
    return space


def default_space(spec: Spec) -> dict[str, RangeConfig]:
    """The fields that matter most: the learning rate, from an eighth to eight times the spec's, and the second beta."""
    lr, slow = spec.optimizer.lr, spec.optimizer.betas[1]
    betas = sorted({0.95, 0.98, 0.99, slow})
    return {"optimizer.lr": RangeConfig(log_uniform=(lr / 8, lr * 8)), "optimizer.betas.1": RangeConfig(choice=list(betas))}


def ladder_of(spec: Spec, proxy: Spec, classes: int) -> list[ModelConfig]:
    """Up to three models, from the proxy's to about half the full model's parameters, evenly spaced in log parameters."""
    # All models in that range, with whole heads, by their number of parameters.
    size = spec.model.width // spec.model.heads
    smallest, largest = (parameters_of(one, classes) for one in (proxy, spec))
    base = {"base_width": proxy.model.base_width, "base_depth": proxy.model.base_depth}
    found: dict[int, ModelConfig] = {}
    for width in range(proxy.model.width, spec.model.width + 1, size):
        for depth in range(proxy.model.depth, spec.model.depth + 1):
            try:
                model = spec.model.of_width(width).model_copy(update={"depth": depth, **base})
            except (ValueError, ValidationError):
                continue
            count = parameters_of(at_size(spec, model, 1), classes)
            if smallest <= count <= largest / 2:
                found.setdefault(count, model)
    if not found:
        return []
    # Of these, the nearest to three evenly spaced counts.
    top = max(found)
    targets = [smallest * (top / smallest) ** part for part in (0, 0.5, 1)]
    nearest_sizes = {min(found, key=lambda count: abs(count / target - 1)) for target in targets}
    return [found[count] for count in sorted(nearest_sizes)]
