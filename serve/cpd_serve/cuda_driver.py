"""Whether an NVIDIA driver is on this machine, asked without creating anything that crashes where there is none."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path

from cpd.errors import EngineError

DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def driver_present() -> bool:
    """Whether the CUDA driver's library can be loaded."""
    try:
        ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return False
    return True


def check_cuda_python(path: Path) -> None:
    """Raises EngineError where cuda-python, which moves frames to the GPU, is not installed."""
    if importlib.util.find_spec("cuda") is None:
        raise EngineError(f"{path}: needs cuda-python, which is not installed", "pip install cuda-python")
