"""What the machine did while an engine was timed: reasons to repeat a round rather than to believe it.

A round is judged only by what it says about the machine and alike for both engines, so that repeating it favours
neither: the symmetry that ``cpd_serve.bench.decision`` rests on stays.
"""

from __future__ import annotations

import math
import time

import numpy as np

from cpd.errors import CpdError
from cpd_serve.bench.counters import Counters
from cpd_serve.bench.worker import Timed

STEAL_FRACTION = 0.10
"""Of the CPU time of a round, taken by the hypervisor for other machines."""
PROBE_FRACTION = 0.10
"""Fixed work took this much longer or shorter in one half of a round than in the other."""
INTERRUPTED_FRACTION = 0.4
"""Calls that were cut in two by other programs; from one half on, the median is theirs and not the engine's."""
INTERRUPTED_SLOWER = 1.5
"""A call is taken for interrupted if it took this many times the round's lower quartile …"""
WAITING_FRACTION = 0.1
"""… and its process waited for a core for more than this part of the time."""
CLOCK_READINGS = 8
CLOCK_FRACTION = 1e-3
"""Two clocks of the machine may differ by this much; the kernel slews a good clock by at most 5e-4."""


def disturbance(before: Counters, after: Counters, timed: Timed) -> str:
    """Why a round must be repeated, in a few words; empty if it need not."""
    ticks = after.cpu_ticks - before.cpu_ticks
    if ticks and (after.steal_ticks - before.steal_ticks) / ticks > STEAL_FRACTION:
        return "steal time (the hypervisor gave the cores to other machines)"
    if after.throttled > before.throttled:
        return "thermal throttling"
    first, second = (np.median(half) for half in np.array_split(timed.probes_s, 2))
    if abs(np.log(first / second)) > PROBE_FRACTION:
        return "a clock change, or a neighbour on the same core (fixed work changed its speed)"
    interrupted = max(
        np.mean(samples_s > INTERRUPTED_SLOWER * np.percentile(samples_s, 25))
        for samples_s in (timed.new_s, timed.baseline_s)
    )
    if interrupted > INTERRUPTED_FRACTION and timed.waiting_s > WAITING_FRACTION * timed.wall_s:
        return "a busy neighbour (other programs interrupted too many calls)"
    return ""


class ClockCheck:
    """Compares the clock that times the engines with one that nobody adjusts."""

    def __init__(self) -> None:
        """Starts comparing.

        Raises:
            CpdError: this machine's clock can jump, or is too coarse to time an engine.
        """
        clock = time.get_clock_info("perf_counter")
        if clock.adjustable or not clock.monotonic or clock.resolution > 1e-5:
            raise CpdError(
                f"the clock of this machine ({clock.implementation}) can jump or is too coarse to judge latency",
                "use a machine with a stable clock",
            )
        self._start_s = _both_s()

    def verify(self) -> None:
        """Raises CpdError where the two clocks came apart since the start."""
        measured_s, raw_s = (now - start for now, start in zip(_both_s(), self._start_s, strict=True))
        if abs(measured_s - raw_s) > CLOCK_FRACTION * raw_s + 1e-3:
            raise CpdError(
                f"the clock of this machine is not stable: {measured_s:.3f} s by one, {raw_s:.3f} s by another",
                "use a machine with a stable clock",
            )


def _both_s() -> tuple[float, float]:
    """Both clocks at one moment: a process that loses its core between two readings takes them again."""
    best_s = (math.inf, 0.0, 0.0)
    for _ in range(CLOCK_READINGS):
        before_s, raw_s, after_s = time.perf_counter(), _raw_s(), time.perf_counter()
        best_s = min(best_s, (after_s - before_s, (before_s + after_s) / 2, raw_s))
    return best_s[1:]


def _raw_s() -> float:
    return time.clock_gettime(time.CLOCK_MONOTONIC_RAW) if hasattr(time, "CLOCK_MONOTONIC_RAW") else time.perf_counter()
