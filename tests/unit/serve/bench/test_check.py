"""From rounds to observations, and from these to decisions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from cpd.errors import CpdError
from cpd_serve.bench.check import Gate, Plan, exact, statistic, why_undecided
from cpd_serve.bench.decision import Decision, rounds_needed
from cpd_serve.bench.rounds import Rounds, log_mean_ratio, log_ratio, runs_for
from cpd_serve.bench.worker import Timed


def timed(new_s: np.ndarray, baseline_s: np.ndarray, energy_j: tuple[float, float] | None = None) -> Timed:
    return Timed(new_s, baseline_s, np.full(len(new_s), 1e-4), 1.0, 0.0, energy_j)


def test_a_machine_that_changes_speed_leaves_the_ratio_alone() -> None:
    speed = np.repeat([1.0, 3.0, 1.0, 3.0], 4)[:, None]  # each pair of turns at another speed
    baseline_s = speed * np.full((16, 4), 1e-3)
    assert log_ratio(timed(1.07 * baseline_s, baseline_s), 50) == pytest.approx(math.log(1.07))


def test_a_machine_that_changes_speed_within_a_round_moves_both_sides_of_a_ratio() -> None:
    baseline_s = np.repeat([1e-3, 3e-3], 8)[:, None] * np.ones((16, 4))
    new_s = 1.07 * baseline_s
    new_s[0, 0] = 9e-3  # of all calls together, the median is now one of the slow half
    assert log_ratio(timed(new_s, baseline_s), 50) == pytest.approx(math.log(1.07))


def test_turns_that_are_longer_than_a_percentile_needs_stay_whole() -> None:
    calls_s = np.full((2, 100), 1e-3)
    assert log_ratio(timed(1.07 * calls_s, calls_s), 50) == pytest.approx(math.log(1.07))


def test_a_percentile_is_taken_of_enough_calls_to_tell_it() -> None:
    assert (runs_for(50), runs_for(90), runs_for(99), runs_for(10)) == (8, 40, 400, 40)
    calls_s = np.random.default_rng(0).lognormal(-7, 0.3, (200, 4))
    assert log_ratio(timed(1.2 * calls_s, calls_s), 99) == pytest.approx(math.log(1.2))


def test_calls_that_lost_their_core_are_left_out_of_the_median_alone() -> None:
    baseline_s, waited_s = np.full((16, 4), 1e-3), np.zeros((2, 16, 4))
    new_s = 1.07 * baseline_s
    new_s[:, :3], waited_s[0, :, :3] = 1.3e-3, 2e-3  # three calls of four went on with cold caches
    cut = replace(timed(new_s, baseline_s), waited_s=waited_s)
    assert log_ratio(cut, 50) == pytest.approx(math.log(1.07))
    assert log_ratio(cut, 75) == pytest.approx(math.log(1.3))
    assert log_mean_ratio(cut) == pytest.approx(math.log((3 * 1.3 + 1.07) / 4))
    waited_s[1, :2] = 2e-3  # of the first two pairs of turns, no call of the baseline is left to compare with
    assert log_ratio(cut, 50) == pytest.approx(math.log(1.07))
    none_kept = replace(cut, waited_s=np.full((2, 16, 4), 2e-3))
    assert log_ratio(none_kept, 50) == pytest.approx(math.log(1.3))


def test_throughput_follows_the_mean_and_latency_the_median() -> None:
    baseline_s = np.full((16, 4), 1e-3)
    new_s = baseline_s.copy()
    new_s[::4, 0] = 9e-3  # 1 in 16 calls is nine times as long: the mean grows by half, the median not at all
    assert statistic("latency", 50)(timed(new_s, baseline_s)) == pytest.approx(0)
    assert statistic("throughput", 50)(timed(new_s, baseline_s)) == pytest.approx(math.log(1.5))


def test_energy_is_compared_where_it_is_told() -> None:
    calls_s = np.full((16, 4), 1e-3)
    assert statistic("energy", 50)(timed(calls_s, calls_s, (0.03, 0.02))) == pytest.approx(math.log(1.5))
    for untold in (None, (0.0, 0.02)):
        with pytest.raises(CpdError, match="energy"):
            statistic("energy", 50)(timed(calls_s, calls_s, untold))


def test_what_is_known_exactly_is_decided_exactly() -> None:
    assert exact(1050 / 1000, 0.05).status == "pass"
    assert exact(1.051, 0.05).status == "fail"


def test_an_undecided_gate_says_why() -> None:
    gate, plan = Gate("latency", 0.05), Plan((Gate("latency", 0.05),))
    few = Decision("inconclusive", 0.1, (None, None), 3)
    assert "only 3 rounds" in why_undecided(gate, few, Rounds(), plan, 2.0)
    close = Decision("inconclusive", 0.05, (0.041, 0.059), rounds_needed(plan.error_rate))
    assert "between +4.1% and +5.9%" in why_undecided(gate, close, Rounds(), plan, 120.0)
    calls_s = np.full((16, 4), 1e-3)
    for waiting_s, told in ((0.05, False), (0.2, True)):
        rounds = Rounds([replace(timed(calls_s, calls_s), waiting_s=waiting_s)])
        assert ("waited for a core 20% of the time" in why_undecided(gate, close, rounds, plan, 120.0)) == told
    disturbed = Rounds()
    disturbed.repeated["steal time"] = 40
    assert "40 of 40 rounds were disturbed: 40 by steal time" in why_undecided(gate, few, disturbed, plan, 120.0)
