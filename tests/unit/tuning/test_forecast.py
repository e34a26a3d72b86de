"""Scaling laws and forecasts: planted constants, the optimum, intervals, and ladders that are refused."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import check_grad, minimize, minimize_scalar
from tests.unit.tuning.ladders import HOFFMANN, ladder

from foundray.errors import InputError
from foundray.tuning.forecast.forecast import Point, Target, forecast, points_from_csv
from foundray.tuning.forecast.plausible import without_each
from foundray.tuning.forecast.refits import refit, sums
from foundray.tuning.forecast.scaling_law import DELTA, Centred, Law, constants_of, fit, summed_huber


@pytest.mark.parametrize("law", [HOFFMANN, Law(E=0.4, A=30, B=3000, alpha=0.2, beta=0.5)])
def test_the_fit_finds_planted_constants(law: Law) -> None:
    found = fit(ladder(law))
    assert (found.E, found.alpha, found.beta) == pytest.approx((law.E, law.alpha, law.beta), rel=1e-5)


def test_the_fit_finds_them_under_noise_and_by_an_outlier() -> None:
    points = ladder(HOFFMANN, noise=0.005, sizes=np.geomspace(1e6, 1e9, 6), ratios=np.geomspace(5, 100, 5))
    points[7] = Point(points[7].parameters, points[7].tokens, points[7].loss * 1.2, "outlier")
    found = fit(points)
    assert (found.E, found.alpha, found.beta) == pytest.approx((1.69, 0.34, 0.28), abs=0.03)


def test_gradient() -> None:
    rng = np.random.default_rng(0)
    n, d, log_loss = rng.standard_normal(8), rng.standard_normal(8), 1.2 + 0.002 * rng.standard_normal(8)
    where = np.array([0.001, 0.002, 0.1, 0.1, 0.1])
    values = (n, d, log_loss)
    scale = np.abs(summed_huber(where, *values)[1]).max()
    error = check_grad(lambda at: summed_huber(at, *values)[0], lambda at: summed_huber(at, *values)[1], where)
    assert error < 1e-4 * scale


def test_a_mean_would_stop_early() -> None:
    """Reason for an objective that is a sum in small units: the same optimiser would treat the mean's gradient as zero."""
    points = ladder(HOFFMANN)
    n, d, log_loss = (np.log([getattr(point, name) for point in points]) for name in ("parameters", "tokens", "loss"))
    n, d = n - n.mean(), d - d.mean()
    scale = DELTA**2 / len(points)

    def mean(at: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = summed_huber(at, n, d, log_loss)
        return value * scale, gradient * scale

    stopped = minimize(mean, np.array([0.5, 0.5, 0.5, 0.5, 0.5]), jac=True, method="L-BFGS-B")
    assert stopped.success and abs(stopped.x[0] - HOFFMANN.alpha) > 0.01
    assert fit(points).alpha == pytest.approx(HOFFMANN.alpha, rel=1e-5)


def test_the_optimum_is_where_a_search_finds_it() -> None:
    flops = 1e21
    parameters, tokens = HOFFMANN.optimum(flops)
    assert 6 * parameters * tokens == pytest.approx(flops)
    found = minimize_scalar(lambda log: HOFFMANN.loss(np.exp(log), flops / 6 / np.exp(log)), bounds=(10, 35))
    assert np.log(parameters) == pytest.approx(found.x, abs=1e-3)
    # With equal exponents and scales, parameters and tokens are equal.
    assert Law(1, 5, 5, 0.5, 0.5).optimum(6e18) == pytest.approx((1e9, 1e9))


def test_intervals_hold_what_is_measured() -> None:
    """The shortest ladders, at eight times the compute."""
    held, widths = 0, []
    for seed in range(8):
        noise = (0.003, 0.01)[seed % 2]
        rng = np.random.default_rng(1000 + seed)
        law = Law(rng.uniform(0.5, 2.5), 300, 600, rng.uniform(0.25, 0.45), rng.uniform(0.25, 0.45))
        found = forecast(ladder(law, noise, seed), Target(3e7, 1.6e9), draws=200)
        measured = law.loss(3e7, 1.6e9) * np.exp(noise * rng.standard_normal())
        held += found.interval.low <= measured <= found.interval.high
        widths.append((found.interval.high - found.interval.low) / measured)
    assert held >= 7
    assert np.median(widths) < 0.2


def test_noise_widens_the_interval_and_runs_narrow_it() -> None:
    def width(noise: float, *ratios: float) -> float:
        found = forecast(ladder(HOFFMANN, noise, 3, ratios=ratios), Target(1e8, 2e9), draws=200).E
        return found.high - found.low

    six = width(0.003, 8, 60)
    assert width(0.03, 8, 60) > 1.2 * six and six > 1.3 * width(0.003, 8, 12, 20, 40, 60)


def many(seed: int = 5) -> list[Point]:
    """240 runs with long-tailed noise, mostly upwards, like that of losses read off a published figure."""
    rng = np.random.default_rng(seed)
    law = Law(1.82, 478, 2143, 0.347, 0.367)
    sizes, tokens = np.exp(rng.uniform(np.log(4e7), np.log(1.5e10), 240)), np.exp(rng.uniform(20, 26, 240))
    off = 0.004 * rng.standard_normal(240) + 0.03 * rng.exponential(1, 240) * (rng.random(240) < 0.15)
    return [Point(n, d, law.loss(n, d) * np.exp(o), f"{i}") for i, (n, d, o) in enumerate(zip(sizes, tokens, off, strict=True))]


def test_intervals_are_about_the_estimator_of_the_fit() -> None:
    """An estimator that gave long tails their full weight put the fit at an end of its interval. 240 runs take seconds."""
    began = time.process_time()
    found = forecast(many(), Target(7e10, 1.4e12), draws=400)
    assert time.process_time() - began < 30
    for name in ("E", "alpha", "beta"):
        interval, value = getattr(found, name), getattr(found.law, name)
        width = interval.high - interval.low
        assert interval.low + 0.15 * width < value < interval.high - 0.15 * width
        assert abs(value - {"E": 1.82, "alpha": 0.347, "beta": 0.367}[name]) < width < 0.2


def test_refits_find_what_the_fit_does() -> None:
    points, rng = many(), np.random.default_rng(1)
    runs = Centred.of(points)
    fitted = constants_of(runs)
    weights = rng.multinomial(240, np.full(240, 1 / 240), 4).astype(float)
    constants, totals = refit(np.tile(fitted, (4, 1)), runs, np.tile(runs.log_loss, (4, 1)), weights)
    for drawn, mine, total in zip(weights, constants, totals, strict=True):
        again = fit([point for point, times in zip(points, drawn.astype(int), strict=True) for _ in range(times)])
        assert total <= sums(_constants(again, runs)[None], runs, runs.log_loss[None], drawn[None])[0] * (1 + 1e-6)
        assert runs.law(mine).beta == pytest.approx(again.beta, abs=1e-3)
    # Also from a distant start, and without one run.
    far, _ = refit(np.array([[0.9, 0.1, 0.0, 0.0, 0.0]]), runs, runs.log_loss[None], np.ones((1, 240)))
    assert far[0] == pytest.approx(fitted, abs=1e-2)
    laws = without_each(points, runs, fitted)
    assert laws[3].beta == pytest.approx(fit([*points[:3], *points[4:]]).beta, abs=1e-3)


def _constants(law: Law, runs: Centred) -> np.ndarray:
    logs = np.log([law.A, law.B]) - np.array([law.alpha, law.beta]) * runs.middle
    return np.array([law.alpha, law.beta, *logs, np.log(law.E)])


def test_a_forecast_that_reaches_too_far_says_so_and_is_wider() -> None:
    points = ladder(HOFFMANN, 0.003)

    def relative(target: Target) -> tuple[float, tuple[str, ...]]:
        found = forecast(points, target, draws=200)
        return (found.interval.high - found.interval.low) / found.loss, found.cautions

    (near, none), (far, said) = relative(Target(3e7, 1.6e9)), relative(Target(1e10, 2e11))
    assert not none and far > 2 * near
    assert said == (
        "3.33e+05 times the FLOPs of the largest run is farther than the ladder is wide (a factor of 750): add larger runs",
    )
    assert f"caution           {said[0]}" in forecast(points, Target(1e10, 2e11), draws=100).table()


def test_a_fit_at_a_bound_says_so_and_is_wider() -> None:
    """Losses that fall as a power of the tokens alone, to zero: they determine neither E nor A."""

    def tokens_alone(size: float, tokens: float) -> float:
        return 1e4 * tokens**-0.5

    points = [Point(p.parameters, p.tokens, tokens_alone(p.parameters, p.tokens), p.name) for p in ladder(HOFFMANN)]
    found = forecast(points, Target(3e7, 1.6e9), draws=100)
    unknown = "the runs do not determine {}: that part of the loss is fitted as zero"
    assert unknown.format("the gain from more parameters") in found.cautions
    assert unknown.format("the irreducible loss (E)") in found.cautions
    steep = [Point(p.parameters, p.tokens, 1 + (p.tokens / 8e6) ** -3.0 + p.parameters**-0.3, p.name) for p in points]
    assert "beta is at the fit's upper bound, 2.5" in forecast(steep, Target(3e7, 1.6e9), draws=100).cautions


def test_a_forecast_and_its_table() -> None:
    points, target = ladder(HOFFMANN, 0.003), Target(1e8, 2e9)
    found = forecast(points, target, draws=200)
    assert found == forecast(points, target, draws=200)
    assert found.interval != forecast(points, target, seed=1, draws=200).interval
    assert found.interval.low < found.loss < found.interval.high
    assert found.twice_data == pytest.approx(found.law.loss(1e8, 4e9) - found.loss)
    assert found.twice_model == pytest.approx(found.law.loss(2e8, 2e9) - found.loss)
    assert found.optimum.flops == pytest.approx(target.flops)
    assert found.optimum_loss < found.loss
    without = fit(points[1:]).loss(1e8, 2e9)
    assert dict(found.left_out)[points[0].name] == pytest.approx(without)

    table = found.table()
    low, high = found.interval.low, found.interval.high
    name, moved = found.most_influential
    assert all(abs(moved - found.loss) >= abs(loss - found.loss) for _, loss in found.left_out)
    for said in (
        f"expected loss     {found.loss:.4f} nats, 90 % of runs between {low:.4f} and {high:.4f}",
        "33.3 times the largest run",
        f"({moved:.4f}) without {name}",
        f"twice the data    {found.twice_data:+.4f}",
        f"twice the model   {found.twice_model:+.4f}",
        f"{found.optimum.parameters:.3g} parameters (",
        f"alpha             {found.law.alpha:.3f} ({found.alpha.low:.3f} to {found.alpha.high:.3f})",
    ):
        assert said in table
    assert max(map(len, table.splitlines())) < 120
    fields = json.loads(json.dumps(found.to_dict()))
    assert fields["interval"] == {"low": low, "high": high} and fields["reach"] == pytest.approx(found.reach)


def test_a_target_inside_the_ladder_is_reported_as_such() -> None:
    assert "inside the ladder: interpolated" in forecast(ladder(HOFFMANN), Target(2e6, 5e7), draws=100).table()


SIX = ladder(HOFFMANN)


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        (SIX[:5], r"takes at least 6 runs, and there are 5"),
        (ladder(HOFFMANN, sizes=(1e6, 1.2e6, 1.5e6)), r"parameters span a factor of 1.5 \(1e\+06 to 1.5e\+06\)"),
        ([Point(p.parameters, 1e8, p.loss, p.name) for p in SIX], r"tokens span a factor of 1 "),
        (ladder(HOFFMANN, sizes=(1e6, 1e7), ratios=(8, 20, 60)), r"2 different numbers of parameters"),
        (ladder(HOFFMANN, sizes=np.geomspace(1e6, 1e8, 6), ratios=(20,)), r"correlate by 1.000\).*same size with other tokens"),
        ([*SIX[:5], Point(1e7, 6e8, float("nan"), "r6")], r"^r6: loss is nan, and must be a finite number"),
        ([*SIX[:5], Point(-1e7, 6e8, 3, "r6")], r"^r6: parameters is -10000000.0, and must be"),
        ([Point(p.parameters, p.tokens, 1e6 / p.loss**9, p.name) for p in SIX], r"the losses of the 6 runs do not fall with"),
    ],
)
def test_ladders_that_do_not_suffice(points: list[Point], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        forecast(points, Target(1e8, 2e9), draws=100)


def test_an_invalid_target() -> None:
    with pytest.raises(InputError, match=r"^the target's parameters is 0, and must be"):
        forecast(SIX, Target(0, 2e9))


def test_points_from_csv(tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    file.write_text("\ufeffrun,N,loss,D\r\na,1e6,5.5,8e6\r\n\r\nb,3000000,4.5,6e7\r\n", encoding="utf-8")
    assert points_from_csv(file) == [Point(1e6, 8e6, 5.5, "line 2"), Point(3e6, 6e7, 4.5, "line 4")]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", r"columns N, D and loss; N is missing from: nothing"),
        (b"N,tokens,loss\n1,2,3\n", r"D is missing from: N, tokens, loss"),
        (b"N,D,loss\n1e6,8e6,5\n1e6,many,\n", r": line 3: D is 'many'; line 3: loss is '': each must be a finite number"),
        (b"N,D,loss\n1e6,8e6\n", r"line 2: loss is ''"),
        (b"N,D,loss\n" + b"1e6,inf,-3\n" * 3, r"line 2: D is 'inf'; line 2: loss is '-3'; line 3: .* \(3 more after these\)"),
        (b"N,D,loss\n1e6,\xff,3\n", r"is not UTF-8 text \(byte 13\)"),
    ],
)  # fmt: skip
def test_bad_csv(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "runs.csv").write_bytes(content)
    with pytest.raises(InputError, match=sentence) as raised:
        points_from_csv(tmp_path / "runs.csv")
    assert str(raised.value).startswith(str(tmp_path / "runs.csv"))


def test_a_missing_csv(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"runs\.csv cannot be read"):
        points_from_csv(tmp_path / "runs.csv")
