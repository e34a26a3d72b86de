"""The model and the length of a run that learn most from some data in a given time.

Each shape of a ladder would see as many tokens as the time allows, and a number of epochs at most. The shape with the lowest
406.4 / N^0.34 + 410.7 / D^0.28 is taken (Hoffmann et al. 2022, arXiv:2203.15556, appendix D.3), where D counts repeated
tokens by their worth (Muennighoff et al. 2023; see `planning.budget`). Both were fitted to text; for other data, and for
models as small as a laptop trains, they are a rough guide. The learning rate is the spec's default for the width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from foundray.planning.budget import worth
from foundray.proposing.choices import Choice
from foundray.proposing.machine import Machine
from foundray.spec.filling import rate

LADDER = (
    (64, 2, 2), (96, 3, 3), (128, 4, 4), (192, 4, 6), (256, 6, 8), (384, 6, 6), (512, 8, 8), (768, 12, 12), (1024, 16, 16),
    (1536, 24, 24), (2048, 24, 32), (3072, 32, 48), (4096, 32, 64),
)  # fmt: skip
"""Width, depth and heads, of 32 units up to width 256, then of 64."""
CONTEXTS = ((96, 64), (192, 128), (384, 256), (768, 512), (1536, 1024))
"""Context up to a width; 2,048 beyond."""
MOST_EPOCHS = {True: 32, False: 128}
"""Times that data is read at most, of ids or of values: repeated tokens are worth nothing long before, while values are masked
and cut in another way each time. The example with electricity readings, which does well, reads them 188 times."""
MOST_PARAMETERS = 8
"""Parameters per token or unit of the data at most. Judgement: the law is of data without end, and a larger model remembers the
data instead; the example with spoken digits, which does well, has seven."""
STEPS = 1000
"""Steps that a run should have, about: a step gets more tokens if there are more."""
FEWEST_SAMPLES, MOST_TOKENS = 8, 2**19
"""Least samples, and most tokens, per step."""
USED = 0.85
"""Share of the samples that can be trained on: a tenth is held out, and what is in the files is estimated."""
GPU_TOKENS = 2**14
"""Tokens in a micro-batch on a GPU, about."""
STEP_SECONDS = 0.012
"""Time of a step that is not computing: the sum, the update, records."""
COMPUTING = 0.25
"""Most time of steps that is not computing, beside the computing: a short run has fewer steps."""
START_SECONDS = 12.0
"""Time before the first step, and after the last. Measured with the examples."""


@dataclass(frozen=True)
class Sizes:
    width: int
    depth: int
    heads: int
    context: int
    steps: int
    micro_batches: int
    micro_batch_size: int
    lr: float
    parameters: float
    """Elements of the matrices, and of the tables of ids."""
    tokens: float
    """Tokens, or units, seen in training."""
    epochs: float
    seconds: float
    """Expected on the machine that it was sized for."""


def size(choice: Choice, machine: Machine, minutes: float, couples: bool) -> Sizes:
    """The sizes that learn most in `minutes`. `couples`: the objective compares the samples of a micro-batch."""
    budget = max(5.0, 60 * minutes - START_SECONDS) * machine.flops
    shapes = [(*shape, _context(choice, shape[0])) for shape in LADDER]
    shapes = [shape for shape in shapes if _matrices(shape, choice) <= MOST_PARAMETERS * choice.units] or shapes[:1]
    width, depth, heads, context = min(shapes, key=lambda shape: _loss(choice, shape, budget))
    tokens = _seen(choice, (width, depth, heads, context), budget)
    wanted = min(STEPS, COMPUTING * budget / machine.flops / STEP_SECONDS)
    samples = max(FEWEST_SAMPLES, _power(min(MOST_TOKENS, tokens / wanted) / context))
    training = USED * (choice.samples or choice.units / context)  # a step cannot take more samples than there are
    samples = max(2 if couples else 1, min(samples, _power(training)))
    steps = max(20, round(tokens / samples / context))
    steps = steps if steps < 100 else round(steps, -1)
    fits = max(1, GPU_TOKENS // context) if machine.gpus else samples
    each = max(2 if couples else 1, min(samples // _workers(machine), fits))
    per_token = _flops((width, depth, heads, context), choice)
    tokens = steps * samples * context
    return Sizes(
        width, depth, heads, context, steps, max(1, samples // each), each,
        lr=rate(choice.vocabulary > 0, {"width": width}),
        parameters=_matrices((width, depth, heads, context), choice) + width * (choice.vocabulary or choice.width),
        tokens=tokens, epochs=tokens / max(1.0, choice.units),
        seconds=START_SECONDS + steps * STEP_SECONDS + tokens * per_token / machine.flops,
    )  # fmt: skip


def _loss(choice: Choice, shape: tuple[int, int, int, int], budget: float) -> float:
    seen = worth(choice.units, _seen(choice, shape, budget))
    return float(406.4 / _matrices(shape, choice) ** 0.34 + 410.7 / max(1.0, seen) ** 0.28)


def _seen(choice: Choice, shape: tuple[int, int, int, int], budget: float) -> float:
    return min(budget / _flops(shape, choice), MOST_EPOCHS[choice.vocabulary > 0] * choice.units)


def _matrices(shape: tuple[int, int, int, int], choice: Choice) -> float:
    """The N of scaling laws: 12 D^2 per layer, and the matrix before the outputs."""
    width, depth, _, _ = shape
    return 12.0 * depth * width**2 + width * (choice.vocabulary or choice.width)


def _flops(shape: tuple[int, int, int, int], choice: Choice) -> float:
    """FLOPs per token: see `model.flops`."""
    width, depth, _, context = shape
    return 6 * _matrices(shape, choice) + 12 * depth * width * context


def _context(choice: Choice, width: int) -> int:
    if choice.context:
        return choice.context
    return min(next((context for most, context in CONTEXTS if width <= most), 2048), longest_context(choice.units))


def longest_context(units: float) -> int:
    """The longest context of data that does not say one, so that there are samples enough to hold some out."""
    return max(16, min(2048, _power(units / 256)))


def _workers(machine: Machine) -> int:
    """Micro-batches that keep the machine busy: four or more, as a run may grow."""
    return max(4, _power(2 * (machine.gpus or min(machine.cores, 32)) - 1))


def _power(number: float) -> int:
    """The power of two at or below a number, at least 1."""
    return int(2 ** math.floor(math.log2(max(1.0, number))))
