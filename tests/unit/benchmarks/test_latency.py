"""What the latency benchmark says of recorded rounds, and of simulated ones."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from cpd_serve.bench.worker import Timed

FOLDER = Path(__file__).parents[3] / "benchmarks/latency"


@pytest.fixture
def score(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "score", raising=False)
    import score

    return score


def a_round(ratios):
    """Turns of new calls, each so many times as long as the baseline's 1 ms; the first lost its core for 1 ms."""
    new_s = 1e-3 * np.repeat(np.asarray(ratios)[:, None], 4, axis=1)
    waited_s = np.zeros((2, *new_s.shape))
    waited_s[0, 0, 0] = 1e-3
    return Timed(new_s, np.full_like(new_s, 1e-3), np.empty(0), 0.0, 0.0, None, waited_s)


def test_a_round_that_leans_to_one_side_does_so_in_both_halves(score) -> None:
    leaning = [a_round([1 + lean] * 8) for lean in (-0.01, 0.0, 0.02)]
    turning = [a_round([1 + lean] * 4 + [1 - lean] * 4) for lean in (-0.01, 0.0, 0.02)]
    told = {
        name: list(
            score.rounds_told([score.Recorded(0, "pass", 1.0, rounds), score.Recorded(3, "pass", 1.0, rounds[:1])])
        )
        for name, rounds in (("leaning", leaning), ("turning", turning))
    }
    assert told["leaning"][2] == "| correlation of a round's first and second half | 1.00 |"
    assert "| -1.00 |" in told["turning"][2] or "| -0.99 |" in told["turning"][2]
    # 1 call of each round's 64 waited
    assert "| calls that lost their core | 1.6% |" in told["leaning"]
    assert told["leaning"][-1].endswith("| 2, 3, 3 |")


def test_rounds_without_noise_take_the_fewest_there_can_be(score, monkeypatch) -> None:
    monkeypatch.setattr(score, "NOISES", {"none": lambda random, shape: np.zeros(shape)})
    row = list(score.simulated())[-1]
    fewest = score.rounds_to(np.full(50, 0.07), 0.01)
    assert row.startswith("| none | ")
    assert f"{fewest} / {fewest}" in row
    assert "undecided" not in row
