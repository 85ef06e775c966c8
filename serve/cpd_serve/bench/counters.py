"""What the machine counts for itself: CPU time, stolen time, throttling, energy."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cpd_serve.environment import read

SYSTEM = Path("/")
"""Where /proc and /sys are."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What the machine has counted up to now; what it does not tell is 0."""

    cpu_ticks: int
    steal_ticks: int
    throttled: int
    """Times that a core was slowed down because of its temperature."""

    @classmethod
    def now(cls, system: Path = SYSTEM) -> Counters:
        """Reads them all."""
        ticks = [int(word) for word in read(system / "proc/stat").partition("\n")[0].split()[1:9]]
        cores = (system / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
        throttled = sum(int(read(path) or 0) for path in cores)
        return cls(sum(ticks), ticks[7] if len(ticks) > 7 else 0, throttled)


@contextmanager
def thread_waiting() -> Iterator[Callable[[], int] | None]:
    """How to ask for how long, in ns, the calling thread was ready to run and had no core; None where nobody counts.

    The kernel counts it to the nanosecond, and the question takes 1.4 µs.
    """
    try:
        counts = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
    except OSError:
        yield None
        return
    try:
        yield lambda: int(os.pread(counts, 64, 0).split()[1])
    finally:
        os.close(counts)


def energy_j(provider: str, system: Path = SYSTEM) -> float | None:
    """Energy used up to now by the processors, or by the GPU that the provider is; None where it cannot be read.

    RAPL counts whole processor packages, so a neighbour's work is counted too.
    """
    if provider != "CPUExecutionProvider":
        return _gpu_energy_j()
    packages = [path for path in (system / "sys/class/powercap").glob("intel-rapl:*") if path.name.count(":") == 1]
    values = [read(path / "energy_uj") for path in packages]
    return sum(map(int, values)) / 1e6 if values and all(values) else None


def _gpu_energy_j() -> float | None:
    """Joules the first GPU used since its driver was loaded (NVML, Volta and later)."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
    readable = (
        nvml.nvmlInit_v2() == 0
        and nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)) == 0
        and nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)) == 0
    )
    return millijoules.value / 1e3 if readable else None
