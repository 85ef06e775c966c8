"""Whether an NVIDIA driver is on this machine, asked without creating anything that crashes where there is none."""

from __future__ import annotations

import ctypes
import sys

DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def driver_present() -> bool:
    """Whether the CUDA driver's library can be loaded."""
    try:
        ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return False
    return True
