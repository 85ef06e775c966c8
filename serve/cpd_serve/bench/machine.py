"""What a latency depends on besides the engine: a recorded baseline holds for this and nothing else."""

from __future__ import annotations

import platform
from pathlib import Path

from cpd.threads import usable_cpus
from cpd.versions import installed
from cpd_serve.bench.worker import Engine, Opened
from cpd_serve.environment import cpu_name, gpu_and_driver, read

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt_lean_cu13", "tensorrt_rtx_cu13", "numpy")


def machine(engine: Engine, opened: Opened) -> dict[str, str | int | None]:
    """The machine and the way of measuring, as compared between a baseline and a check."""
    gpu, driver = gpu_and_driver()
    return {
        "cpu": cpu_name(),
        "cpus": usable_cpus(),
        "governor": read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")) or None,
        "gpu": gpu,
        "driver": driver,
        "system": platform.system(),
        **installed(PACKAGES),
        "runtime": opened.runtime,
        "provider": opened.provider,
        "threads": engine.threads,
        "batch": engine.batch,
        "from": "frames" if engine.video is None else "clip",
    }


HOW = ("runtime", "provider", "threads", "batch", "from")
"""What the user chose; the rest is the machine."""
