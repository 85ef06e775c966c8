"""On how many CPU threads a model runs: one rule for the server and for whoever predicts what the server will do."""

from __future__ import annotations

import os

ONE_THREAD_FLOPS = 50_000_000
"""A run of fewer floating-point operations is over before more threads have woken: two cost it 12 to 60 % more time."""


def threads_for(flops: int) -> int:
    """Threads for a run of so many floating-point operations; 0 are not known, and taken for many."""
    return 1 if 0 < flops < ONE_THREAD_FLOPS else usable_cpus()


def usable_cpus() -> int:
    """CPUs this process may run on, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
