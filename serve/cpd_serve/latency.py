"""Timing engines against each other: in turns, in random order, after a warm-up, so that they share what disturbs them.

Two numbers taken one after the other differ by whatever the machine did in between; samples taken in turns differ by
the engines. Both `cpd-bench` and the validate stage measure here, so a latency in a report is one that can be gated.

A runner is timed from call to return. It must return finished results: numpy logits on the host, as
``runner.predict(frames)`` gives them, which waits for the device and counts the transfers.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]
"""(runs,) seconds."""

BLOCK_RUNS = 4
"""Timed calls of one engine before the next has its turn: a few milliseconds of a small student."""
WARM_UP_WINDOW_RUNS = 5
WARM_UP_LIMIT_S = 3.0
"""A machine that never settles is measured as it is: pairing, not waiting, is what makes the comparison fair."""
STABLE_FRACTION = 0.02
REST_S = 5e-5


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Percentiles of single calls."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    runs: int

    def to_dict(self) -> dict[str, float]:
        """As report.json holds it."""
        return {"p50": self.p50_ms, "p90": self.p90_ms, "p99": self.p99_ms, "runs": self.runs}


def summarise(samples_s: Samples) -> LatencySummary:
    """Percentiles of (runs,) seconds, interpolated linearly.

    Raises:
        ValueError: there are no samples.
    """
    if len(samples_s) == 0:
        raise ValueError("no latency samples to summarise")
    p50, p90, p99 = (float(value) * 1e3 for value in np.percentile(samples_s, (50, 90, 99)))
    return LatencySummary(p50, p90, p99, len(samples_s))


def measure(runners: Mapping[str, Callable[[], object]], *, runs: int, seed: int = 0) -> dict[str, Samples]:
    """Times every runner ``runs`` times, in turns of ``BLOCK_RUNS`` calls whose order is drawn anew each round.

    Before each turn one call is not counted: it brings the engine's weights back into the caches, which the others
    used meanwhile.

    Returns:
        (runs,) seconds for each runner; equal positions were taken in the same round, and so are pairs.

    Raises:
        ValueError: ``runs`` is below 1, or there is no runner.
    """
    if runs < 1 or not runners:
        raise ValueError(f"runs must be at least 1 and there must be a runner, got {runs} and {len(runners)}")
    for run in runners.values():
        warm_up(run)
    samples_s = {name: np.empty(runs) for name in runners}
    order = np.random.default_rng(seed)
    with no_garbage_collection():
        for start in range(0, runs, BLOCK_RUNS):
            for name in order.permutation(list(runners)):
                block = samples_s[name][start : start + BLOCK_RUNS]
                block[:] = time_block(runners[name], len(block))
    return samples_s


def time_block(run: Callable[[], object], runs: int) -> Samples:
    """(runs,) seconds of calls in a row, from call to return."""
    return time_and_waiting(run, runs)[0]


def time_and_waiting(
    run: Callable[[], object], runs: int, waited_ns: Callable[[], int] | None = None
) -> tuple[Samples, Samples]:
    """Times (runs,) calls in a row, after a short rest and one call that is not counted.

    Args:
        waited_ns: tells for how long this thread has been ready to run without a core, so far.

    Returns:
        (runs,) seconds each: from call to return, and how much of it this thread waited for a core, 0 without
        ``waited_ns``.

    A process that has just slept has a whole time slice before it, so its calls are rarely cut in two by other
    programs: on two busy cores an eighth of 1.7 ms calls were, instead of nearly half. (``sched_yield`` instead of
    sleep made rounds three times longer: Linux 6.18 takes it for giving up a share.)
    """
    time.sleep(REST_S)
    run()
    took_s, waiting_s = np.empty(runs), np.zeros(runs)
    for index in range(runs):
        before_ns = waited_ns() if waited_ns else 0
        start_ns = time.perf_counter_ns()
        run()
        took_ns = time.perf_counter_ns() - start_ns
        waiting_ns = waited_ns() - before_ns if waited_ns else 0
        took_s[index] = took_ns / 1e9
        if waiting_ns < took_ns:  # or else the core was lost between the two clocks, beside the call
            waiting_s[index] = waiting_ns / 1e9
    return took_s, waiting_s


def warm_up(run: Callable[[], object]) -> Samples:
    """Calls until they no longer become faster by ``STABLE_FRACTION`` a window, at most for ``WARM_UP_LIMIT_S``.

    Returns:
        (calls,) seconds of every call made; the first is the first inference.
    """
    calls_s: list[float] = []
    deadline_s = time.perf_counter() + WARM_UP_LIMIT_S
    while time.perf_counter() < deadline_s:
        start_s = time.perf_counter()
        run()
        calls_s.append(time.perf_counter() - start_s)
        if len(calls_s) >= 2 * WARM_UP_WINDOW_RUNS and len(calls_s) % WARM_UP_WINDOW_RUNS == 0:
            earlier_s, later_s = np.median(np.reshape(calls_s[-2 * WARM_UP_WINDOW_RUNS :], (2, -1)), axis=1)
            if later_s >= (1 - STABLE_FRACTION) * earlier_s:
                break
    return np.asarray(calls_s)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keeps Python's collector out of the timings."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
