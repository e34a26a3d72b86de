"""The loss of a large run, forecast from a ladder of small ones, with an interval and the gains from more data or model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from foundray.host.threads import one_blas_thread
from foundray.tuning.forecast.extrapolation import WARY, cautions, check_falls, drift
from foundray.tuning.forecast.ladder import Point, Target, check, check_positive, points_from_csv
from foundray.tuning.forecast.plausible import plausible, without_each
from foundray.tuning.forecast.scaling_law import Centred, Law, constants_of
from foundray.wording.shown import Shown

__all__ = ["Forecast", "Interval", "Point", "Target", "forecast", "points_from_csv"]

QUANTILES = (0.05, 0.95)


@dataclass(frozen=True)
class Interval:
    """Interval that holds the true value with a probability of 90 %."""

    low: float
    high: float

    @staticmethod
    def of(draws: Sequence[float] | np.ndarray, value: float) -> Interval:
        """The middle 90 % of the draws, widened to hold the fitted value, which the draws may miss if the data say little."""
        low, high = np.quantile(draws, QUANTILES)
        return Interval(min(float(low), value), max(float(high), value))


@dataclass(frozen=True)
class Forecast(Shown):
    """A forecast. Gains are losses minus the target's."""

    points: tuple[Point, ...]
    target: Target
    law: Law
    """Fitted to all points."""
    loss: float
    """Loss of the target by that law."""
    interval: Interval
    """Interval of the loss that the target's run will measure: uncertainty of the law, noise of one run, and the known drift
    of large runs from such laws."""
    noise: float
    """Standard deviation of runs about the law, relative to the loss."""
    optimum: Target
    """Size that gives the least loss for the target's FLOPs."""
    optimum_loss: float
    optimum_parameters: Interval
    twice_data: float
    """Gain with twice the tokens."""
    twice_model: float
    """Gain with twice the parameters."""
    E: Interval
    alpha: Interval
    beta: Interval
    left_out: tuple[tuple[str, float], ...]
    """Names of points, and the target's loss by the law fitted without each."""
    cautions: tuple[str, ...] = ()
    """Why the interval is wider than the reach alone makes it; empty in forecasts of earlier versions."""
    unit: str = "nats"
    """Unit of the losses."""

    @property
    def reach(self) -> float:
        """The target's FLOPs as a multiple of those of the largest point."""
        return self.target.flops / max(point.flops for point in self.points)

    @property
    def most_influential(self) -> tuple[str, float]:
        """The point whose omission changes the loss most, and that loss."""
        return max(self.left_out, key=lambda left: abs(left[1] - self.loss))

    def to_dict(self) -> dict[str, Any]:
        """Fields for JSON."""
        return {**asdict(self), "reach": self.reach, "flops": self.target.flops}

    def table(self) -> str:
        """The forecast for people, one fact per line; A and B are left out, since the fit does not determine them."""
        unit, target, best, without = self.unit, self.target, self.optimum, [loss for _, loss in self.left_out]
        name, moved = self.most_influential
        reach = "inside the ladder: interpolated" if self.reach <= 1 else f"{self.reach:.3g} times the largest run"
        lines = [
            ("target", f"{target.parameters:.3g} parameters, {target.tokens:.3g} tokens, {target.flops:.3g} FLOPs, {reach}"),
            (
                "expected loss",
                f"{self.loss:.4f} {unit}, 90 % of runs between {self.interval.low:.4f} and {self.interval.high:.4f}",
            ),
            ("without one run", f"{min(without):.4f} to {max(without):.4f}, farthest ({moved:.4f}) without {name}"),
            ("twice the data", f"{self.twice_data:+.4f} {unit}"),
            ("twice the model", f"{self.twice_model:+.4f} {unit}"),
            (
                "same FLOPs, best",
                f"{best.parameters:.3g} parameters ({self.optimum_parameters.low:.2g} to {self.optimum_parameters.high:.2g}), "
                f"{best.tokens:.3g} tokens: {self.optimum_loss:.4f} {unit}",
            ),
            ("E", f"{self.law.E:.3f} {unit} ({self.E.low:.3f} to {self.E.high:.3f})"),
            ("alpha", f"{self.law.alpha:.3f} ({self.alpha.low:.3f} to {self.alpha.high:.3f}), of parameters"),
            ("beta", f"{self.law.beta:.3f} ({self.beta.low:.3f} to {self.beta.high:.3f}), of tokens"),
            ("fitted to", f"{len(self.points)} runs, with noise of about {self.noise:.1%} of the loss"),
        ]
        lines += [("caution", caution) for caution in self.cautions]
        return "\n".join(f"{label:<18}{text}" for label, text in lines)


def forecast(points: Sequence[Point], target: Target, seed: int = 0, draws: int = 1000, unit: str = "nats") -> Forecast:
    """Fit the scaling law to the points and apply it to the target. The same seed gives the same intervals.

    `unit` is that of the losses, for people.

    Raises InputError if points are too few, too alike or follow no such law, and for values that are not positive.
    """
    check(points)
    check_positive(target.parameters, "the target's parameters")
    check_positive(target.tokens, "the target's tokens")
    with one_blas_thread():  # products this small are slower on several threads
        found = _forecast(points, target, np.random.default_rng(seed), draws)
    return replace(found, unit=unit)


def _forecast(points: Sequence[Point], target: Target, rng: np.random.Generator, draws: int) -> Forecast:
    # Fit the law, and draw the laws that are plausible beside it.
    ladder = Centred.of(points)
    fitted = constants_of(ladder)
    check_falls(ladder, fitted)
    law = ladder.law(fitted)
    found, noise = plausible(ladder, fitted, rng, draws)
    laws = [ladder.law(constants) for constants in found]
    warned = cautions(ladder, fitted, target, points)

    def at(law: Law, parameters: float = 1, tokens: float = 1) -> float:
        """Loss at multiples of the target's parameters and tokens."""
        return float(law.loss(target.parameters * parameters, target.tokens * tokens))

    # The interval: plausible laws, the noise of a run, and the drift of large runs, which cautions widen.
    loss = at(law)
    off = noise + drift(target, points) * (WARY if warned else 1) * rng.standard_normal(draws)
    runs = np.array([at(one) for one in laws]) * np.exp(off)
    optimum = Target(*law.optimum(target.flops))
    return Forecast(
        points=tuple(points),
        target=target,
        law=law,
        loss=loss,
        interval=Interval.of(runs, loss),
        noise=float(np.std(noise)),
        optimum=optimum,
        optimum_loss=law.loss(optimum.parameters, optimum.tokens),
        optimum_parameters=Interval.of([one.optimum(target.flops)[0] for one in laws], optimum.parameters),
        twice_data=at(law, tokens=2) - loss,
        twice_model=at(law, parameters=2) - loss,
        E=Interval.of([one.E for one in laws], law.E),
        alpha=Interval.of([one.alpha for one in laws], law.alpha),
        beta=Interval.of([one.beta for one in laws], law.beta),
        left_out=tuple((out.name, at(law)) for out, law in zip(points, without_each(points, ladder, fitted), strict=True)),
        cautions=warned,
    )
