from __future__ import annotations

import math

import pytest

from cpd_serve.gates import FEW_CLIPS, exact_gate, latency_gate, split_gate


@pytest.mark.parametrize(
    ("value", "status"),
    [(1e-5, "pass"), (1e-4, "pass"), (2e-4, "fail"), (None, "inconclusive"), (math.nan, "inconclusive")],
)
def test_an_exact_value_is_compared(value: float | None, status: str) -> None:
    gate = exact_gate(value, "proven at export", "logit_difference_max", 1e-4)
    assert gate.status == status
    assert gate.interval == (None if status == "inconclusive" else (value, value))


@pytest.mark.parametrize(
    ("value", "interval", "clips", "status"),
    [
        (0.96, (0.93, 0.98), 320, "pass"),  # the limit lies inside, and the split is large enough to go by
        (0.94, (0.91, 0.97), 320, "fail"),
        (0.95, (0.95, 1.0), 320, "pass"),
        (0.96, (0.70, 0.99), FEW_CLIPS - 1, "inconclusive"),
        (0.96, (0.70, 0.99), FEW_CLIPS, "pass"),
        (1.0, (0.96, 1.0), FEW_CLIPS - 1, "pass"),  # few clips, and clear all the same
        (0.97, (0.95, 1.0), FEW_CLIPS - 1, "pass"),
        (0.90, (0.70, 0.95), FEW_CLIPS - 1, "inconclusive"),
        (0.10, (0.02, 0.40), 10, "fail"),
    ],
)
def test_an_accuracy_is_decided_on_its_split(
    value: float, interval: tuple[float, float], clips: int, status: str
) -> None:
    gate = split_gate(value, interval, clips, "top1_min", 0.95)
    assert (gate.status, gate.value, gate.interval, gate.limit) == (status, value, interval, 0.95)
    assert str(clips) in gate.reason
    assert ("otherwise" in gate.reason) == (clips >= FEW_CLIPS and interval[0] < 0.95 <= interval[1])


def test_an_accuracy_that_is_none_is_inconclusive() -> None:
    assert split_gate(math.nan, (math.nan, math.nan), 40, "top1_retained_min", 0.95).status == "inconclusive"


@pytest.mark.parametrize(
    ("interval", "at_least", "status"),
    [
        ((2.1, 2.4), True, "pass"),
        ((1.9, 2.4), True, "inconclusive"),
        ((1.5, 1.9), True, "fail"),
        ((2.1, 2.4), False, "fail"),
        ((1.9, 2.4), False, "inconclusive"),
        ((1.5, 1.9), False, "pass"),
        ((2.0, 2.4), True, "pass"),
        ((1.5, 2.0), False, "pass"),
        ((1.5, 2.0), True, "inconclusive"),
        ((2.0, 2.4), False, "inconclusive"),
    ],
)
def test_a_latency_is_decided_by_its_interval(interval: tuple[float, float], at_least: bool, status: str) -> None:
    gate = latency_gate(sum(interval) / 2, interval, 200, "speedup_min", 2.0, at_least=at_least)
    assert gate.status == status


@pytest.mark.parametrize(("runs", "status"), [(1, "inconclusive"), (23, "inconclusive"), (24, "pass")])
def test_a_few_runs_decide_no_latency(runs: int, status: str) -> None:
    gate = latency_gate(1.0, (1.0, 1.0), runs, "latency_p50_ms_max", 2.0)
    assert (gate.status, "too few" in gate.reason) == (status, status != "pass")
