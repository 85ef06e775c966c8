"""What the measurements were made on."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from cpd.threads import usable_cpus
from cpd.versions import installed

PACKAGES = (
    "cpd", "numpy", "av", "onnxruntime", "onnxruntime-gpu", "onnx", "torch", "nvidia-dali-cuda130",
    "tensorrt", "tensorrt_lean_cu13", "tensorrt_rtx_cu13", "cuda-python",
)  # fmt: skip
"""Those whose version can change a result."""


def environment() -> dict[str, Any]:
    """The machine and the packages, as report.json holds them."""
    return {
        "cpu": cpu_name(),
        "cpus": usable_cpus(),
        "gpu": gpu_and_driver()[0],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": installed(PACKAGES),
    }


def cpu_name(system: Path = Path("/")) -> str:
    """The processor's own name, or its board's: Arm boards name themselves, and not their cores.

    Its architecture where the system tells neither; ``system`` is where /proc is.
    """
    names = re.findall(r"^model name\s*: *(.+)$", read(system / "proc/cpuinfo"), re.MULTILINE)
    board = read(system / "proc/device-tree/model").strip("\0")
    return names[0] if names else board or platform.processor() or platform.machine()


def gpu_and_driver() -> tuple[str | None, str | None]:
    """The first GPU's name as its driver tells it, and the driver's version; None of both without a driver."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None, None
    name, _, driver = answer.stdout.partition("\n")[0].partition(", ")
    return (name, driver) if name else (None, None)


def read(path: Path) -> str:
    """A file's text; empty where it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
