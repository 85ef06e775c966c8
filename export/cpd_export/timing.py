"""Latency of the exported graphs on this machine, taken in turns, so that what disturbs one disturbs all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from cpd.metrics import bootstrap_interval

ROUNDS, CALLS = 16, 4
Samples = NDArray[np.float64]
"""(ROUNDS, CALLS) seconds."""


def in_turns(calls: Mapping[str, Callable[[], object]]) -> dict[str, Samples]:
    """Times each call in ``ROUNDS`` rounds of random order; the first call of a turn warms up and does not count."""
    order = np.random.default_rng(0)
    samples_s = {name: np.empty((ROUNDS, CALLS)) for name in calls}
    for turn in range(-1, ROUNDS):  # the first round of all is not kept
        for name in order.permutation(list(calls)):
            call = calls[name]
            call()
            for index in range(CALLS):
                start_s = time.perf_counter()
                call()
                samples_s[name][max(turn, 0), index] = time.perf_counter() - start_s
    return samples_s


def percentiles_ms(samples_s: Samples) -> dict[str, float]:
    """Median and 90th percentile in milliseconds."""
    return {f"p{percent}": round(float(np.percentile(samples_s, percent)) * 1e3, 4) for percent in (50, 90)}


def is_faster(one: Samples, other: Samples) -> bool:
    """Whether one is faster than the other beyond the noise: in a 95 % interval over rounds, paired."""
    ratios = np.median(one, axis=1) / np.median(other, axis=1)
    _, high = bootstrap_interval(lambda drawn: float(np.median(ratios[drawn])), len(ratios))
    return high < 1.0
