"""Measuring in turns, and summing up what was measured."""

from __future__ import annotations

import gc
import time
from functools import partial
from itertools import chain

import numpy as np
import pytest

from cpd_serve.latency import BLOCK_RUNS, WARM_UP_WINDOW_RUNS, measure, summarise, time_and_waiting, warm_up


def test_summary_holds_the_percentiles_in_milliseconds() -> None:
    summary = summarise(np.arange(101) / 1e3)
    assert (summary.p50_ms, summary.p90_ms, summary.p99_ms, summary.runs) == pytest.approx((50.0, 90.0, 99.0, 101))
    assert summary.to_dict() == pytest.approx({"p50": 50.0, "p90": 90.0, "p99": 99.0, "runs": 101})


def test_summary_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no latency samples"):
        summarise(np.empty(0))


def test_each_runner_is_timed_as_often_as_asked_in_random_turns() -> None:
    calls: list[str] = []
    samples_s = measure({name: lambda name=name: calls.append(name) for name in "ab"}, runs=5 * BLOCK_RUNS + 3)
    assert {name: len(values) for name, values in samples_s.items()} == {"a": 23, "b": 23}
    turns = "".join(call for call, before in zip(calls, ["", *calls], strict=False) if call != before)
    # Six rounds; where the order of two rounds differs, one engine has two turns in a row and they melt into one.
    assert "ab" in turns
    assert "ba" in turns


def test_order_follows_the_seed() -> None:
    def order(seed: int) -> list[str]:
        calls: list[str] = []
        measure({name: lambda name=name: calls.append(name) for name in "abc"}, runs=32, seed=seed)
        return [calls[-index] for index in range(1, 8 * 3 * (BLOCK_RUNS + 1), BLOCK_RUNS + 1)]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_a_slower_runner_is_measured_slower() -> None:
    samples_s = measure({"one": lambda: time.sleep(0.001), "three": lambda: time.sleep(0.003)}, runs=12)
    one, three = summarise(samples_s["one"]), summarise(samples_s["three"])
    assert one.p50_ms >= 1
    assert three.p50_ms >= 3
    assert three.p50_ms > one.p50_ms


@pytest.mark.parametrize(("faster_fraction", "windows"), [(0.0, 2), (0.002, 2), (0.01, 7)])
def test_warm_up_goes_on_while_calls_become_faster(
    faster_fraction: float, windows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By two percent a window; here each of five windows of calls by a part of the call before it."""
    calls_s = [1e-3 * (1 - faster_fraction) ** min(call, 5 * WARM_UP_WINDOW_RUNS) for call in range(1000)]
    clock = chain.from_iterable((1e-3 * call, 1e-3 * call, 1e-3 * call + took) for call, took in enumerate(calls_s))
    monkeypatch.setattr(time, "perf_counter", partial(next, chain([0.0], clock)))
    made: list[None] = []
    np.testing.assert_allclose(warm_up(lambda: made.append(None)), calls_s[: len(made)], atol=1e-9)
    assert len(made) == windows * WARM_UP_WINDOW_RUNS


def test_each_runner_is_warm_and_each_turn_begins_with_a_call_that_does_not_count() -> None:
    calls: list[str] = []
    measure({"a": lambda: calls.append("a")}, runs=3 * BLOCK_RUNS)
    assert len(calls) >= 2 * WARM_UP_WINDOW_RUNS + 3 * (1 + BLOCK_RUNS)
    calls.clear()
    time_and_waiting(lambda: calls.append("a"), 3)
    assert len(calls) == 1 + 3


def test_the_collector_rests_while_timing_and_works_again_after() -> None:
    states: list[bool] = []
    measure({"a": lambda: states.append(gc.isenabled())}, runs=4)
    assert states[-4:] == [False] * 4
    assert gc.isenabled()
    gc.disable()
    try:
        measure({"a": lambda: None}, runs=4)
        assert not gc.isenabled(), "who keeps it off keeps it off"
    finally:
        gc.enable()


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        measure({}, runs=1)
    with pytest.raises(ValueError, match="at least 1"):
        measure({"a": lambda: None}, runs=0)


def test_waiting_for_a_core_is_told_apart_from_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_ns = iter([0, 1_000_000, 5_000_000, 9_000_000, 9_500_000, 10_500_000])
    waited_ns = iter([0, 0, 0, 3_000_000, 3_000_000, 8_000_000])  # the third waited beside its call, for longer than it
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(clock_ns))
    took_s, waiting_s = time_and_waiting(lambda: None, 3, lambda: next(waited_ns))
    assert took_s == pytest.approx([1e-3, 4e-3, 1e-3])
    assert waiting_s == pytest.approx([0, 3e-3, 0])
