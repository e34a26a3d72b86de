"""The learning rate as a function of the step alone."""

import math

from foundray.spec import ScheduleConfig


def lr_factor(schedule: ScheduleConfig, step: int, steps: int) -> float:
    """The fraction of the peak learning rate for the step after `step` others.

    WSD (warm-up, stable, decay: Hu et al. 2024) falls linearly and reaches zero just after the last step, as the cosine
    (Loshchilov and Hutter 2017) does.
    """
    warmup = schedule.warmup_of(steps)
    if step < warmup:
        return (step + 1) / warmup
    if schedule.kind == "constant":
        return 1.0
    if schedule.kind == "cosine":
        return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (steps - warmup))
    decay = schedule.decay_of(steps)
    return min(1.0, (steps - step) / decay) if decay else 1.0
