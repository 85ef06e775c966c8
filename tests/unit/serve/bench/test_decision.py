"""The sequential test: its error rates hold although it looks after every round."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpd_serve.bench.decision import centre, decide, interval, reached, rounds_needed, rounds_to

LIMIT_FRACTION, ERROR_RATE = 0.05, 0.01


def ever(true_fraction: float, spread: float, repeats: int, rounds: int, seed: int = 0) -> dict[str, float]:
    """Share of sequences failed or passed at any look, with heavy tails and a spread that changes with the load."""
    random = np.random.default_rng(seed)
    load = np.repeat(random.uniform(0.3, 3, (repeats, rounds // 20)), 20, axis=1)
    noise = random.standard_t(2, (repeats, rounds)) * spread * load
    excess = math.log1p(true_fraction) + noise - math.log1p(LIMIT_FRACTION)
    return {
        "fail": float(np.mean([reached(each, ERROR_RATE) for each in excess])),
        "pass": float(np.mean([reached(-each, ERROR_RATE) for each in excess])),
    }


def test_error_rate_holds_at_the_limit_itself_at_any_stopping_time() -> None:
    # 1 % of 2000 is 20 with a standard deviation of 4.4; 38 would be four of them.
    shares = ever(LIMIT_FRACTION, spread=0.01, repeats=2000, rounds=200)
    assert shares["fail"] <= 38 / 2000
    assert shares["pass"] <= 38 / 2000


def test_true_slowdowns_are_told_apart() -> None:
    assert ever(0.03, spread=0.01, repeats=300, rounds=300)["fail"] <= 0.01
    assert ever(0.03, spread=0.01, repeats=300, rounds=300)["pass"] >= 0.95
    assert ever(0.07, spread=0.01, repeats=300, rounds=300)["fail"] >= 0.95
    assert ever(0.0, spread=0.01, repeats=300, rounds=100)["pass"] >= 0.99


@pytest.mark.parametrize(("excess", "spread", "rounds"), [(0.001, 0.001, 30), (0.03, 0.03, 30), (0.5, 1.0, 100)])
def test_small_and_large_changes_are_found_among_noise_of_their_size(excess: float, spread: float, rounds: int) -> None:
    random = np.random.default_rng(0)
    needed = [rounds_to(random.normal(excess, spread, 400), ERROR_RATE) or 400 for _ in range(100)]
    assert np.median(needed) <= rounds


def test_limit_and_change_are_fractions_of_the_baseline_and_no_logarithms() -> None:
    decision = decide(np.full(40, math.log(2.3)), limit_fraction=1.0, error_rate=ERROR_RATE)
    assert decision.status == "fail"
    assert decision.change_fraction == pytest.approx(1.3)
    assert decision.interval == pytest.approx((1.3, 1.3), abs=0.02)


def test_no_verdict_before_the_fewest_rounds_and_one_right_after() -> None:
    needed = rounds_needed(ERROR_RATE)
    slow = np.full(needed, 10.0)
    assert decide(slow[:-1], LIMIT_FRACTION, ERROR_RATE).status == "inconclusive"
    assert decide(slow, LIMIT_FRACTION, ERROR_RATE).status == "fail"
    assert rounds_to(np.append(slow, -10.0), ERROR_RATE) == needed
    assert rounds_to(np.append(slow, slow), ERROR_RATE) == needed
    assert math.isinf(interval(slow[:-1], ERROR_RATE)[0])
    assert math.isfinite(interval(slow, ERROR_RATE)[0])
    assert rounds_to(-slow, ERROR_RATE) is None
    assert decide(np.empty(0), LIMIT_FRACTION, ERROR_RATE).change_fraction is None


def test_one_wild_round_decides_nothing() -> None:
    quiet = np.random.default_rng(0).normal(0, 0.005, 30)
    quiet[7] = math.log(50)
    decision = decide(quiet, LIMIT_FRACTION, ERROR_RATE)
    assert decision.status == "pass"
    assert decision.change_fraction == pytest.approx(0, abs=0.01)
    assert decision.interval[0] == pytest.approx(0, abs=0.02)


def test_interval_holds_the_truth_and_agrees_with_the_verdict() -> None:
    random = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        y = random.normal(math.log1p(0.02), 0.01, 40)
        low, high = interval(y, ERROR_RATE)
        assert reached(y - (low - 1e-5), ERROR_RATE)
        assert not reached(y - (low + 1e-5), ERROR_RATE)
        assert reached(high + 1e-5 - y, ERROR_RATE)
        assert not reached(high - 1e-5 - y, ERROR_RATE)
        held += low <= math.log1p(0.02) <= high
        assert 0.001 < high - low < 0.05
    assert held >= 95


@settings(deadline=None)  # a busy machine is no failure
@given(
    st.lists(st.floats(-0.5, 0.5), min_size=rounds_needed(ERROR_RATE), max_size=40),
    st.floats(-0.3, 0.3),
)
def test_mirrored_rounds_give_the_mirrored_interval_and_shifted_ones_the_shifted(y: list[float], shift: float) -> None:
    low, high = interval(np.asarray(y), ERROR_RATE)
    mirrored = interval(-np.asarray(y), ERROR_RATE)
    shifted = interval(np.asarray(y) + shift, ERROR_RATE)
    if math.isfinite(low) and math.isfinite(high):
        assert mirrored == pytest.approx((-high, -low), abs=1e-4)
        assert shifted == pytest.approx((low + shift, high + shift), abs=1e-4)


def test_margin_widens_the_interval_and_delays_the_verdict() -> None:
    slow = np.random.default_rng(2).normal(math.log1p(0.07), 0.003, 40)
    assert decide(slow, LIMIT_FRACTION, ERROR_RATE).status == "fail"
    careful = decide(slow, LIMIT_FRACTION, ERROR_RATE, margin=0.03)
    assert careful.status == "inconclusive"
    low, high = careful.interval
    assert low is not None
    assert high is not None
    assert low < 0.045
    assert high > 0.095


def test_centre_is_the_median_of_pairwise_means() -> None:
    assert centre(np.array([1.0, 2.0, 9.0])) == pytest.approx(3.5)  # 1, 1.5, 2, 5, 5.5, 9
    assert math.isnan(centre(np.empty(0)))
