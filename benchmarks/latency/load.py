"""A changing background load: what CI runners and shared machines do to a measurement.

    python load.py SEED        runs until it or what started it ends

Phases of 0.3 to 5 s follow each other at random: nothing, one or two programs that compute, one that moves memory,
one that wakes up and works in bursts.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time

import numpy as np


def compute(until_s: float) -> None:
    """Keeps a core busy with arithmetic."""
    while time.monotonic() < until_s:
        sum(range(10_000))


def move_memory(until_s: float) -> None:
    """Keeps the memory bus and the shared cache busy."""
    source = np.ones(4 << 20)
    target = np.empty_like(source)
    while time.monotonic() < until_s:
        np.copyto(target, source)


def burst(until_s: float) -> None:
    """Sleeps and works in turns, 10 to 60 ms each."""
    random = np.random.default_rng()
    while time.monotonic() < until_s:
        compute(min(until_s, time.monotonic() + random.uniform(0.01, 0.06)))
        time.sleep(random.uniform(0.01, 0.06))


PHASES = ((), (compute,), (compute, compute), (move_memory,), (burst,), (burst, compute))


def main(seed: int) -> None:
    """Runs phases until what started it has ended."""
    random = np.random.default_rng(seed)
    parent = os.getppid()
    with multiprocessing.Pool(2) as pool:
        while os.getppid() == parent:
            until_s = time.monotonic() + random.uniform(0.3, 5)
            for program in PHASES[random.integers(len(PHASES))]:
                pool.apply_async(program, (until_s,))
            time.sleep(max(0.0, until_s - time.monotonic()))


if __name__ == "__main__":
    main(int(sys.argv[1]))
