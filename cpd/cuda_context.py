"""The primary CUDA context of the first GPU, which engines run in, for a decoder to share.

FFmpeg would make a context for every video that is opened: hundreds of MB, and longer than a short clip takes. Its
option ``primary_ctx`` is no help: it refuses a primary context that a runtime has made already, whose flags are not its
own. So the context is made the thread's current one, which ``current_ctx`` takes as it is, and does not destroy.
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from typing import Any

THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL of cuda.h."""
DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
"""NVIDIA's driver, as the system's loader knows it."""


def enter_primary_context() -> None:
    """Makes it the calling thread's. It stays for as long as the process, which must not fork after.

    What the thread does then goes on while another captures a CUDA graph. onnxruntime captures in a mode in which, if
    any other thread allocates or waits, both that and the graph fail.

    Raises:
        OSError: there is no driver, or it refuses.
    """
    driver, context = _retained()
    _call(driver, "cuCtxSetCurrent", context)
    _call(driver, "cuThreadExchangeStreamCaptureMode", ctypes.byref(ctypes.c_int(THREAD_LOCAL)))


@lru_cache(maxsize=1)
def _retained() -> tuple[Any, ctypes.c_void_p]:
    driver = ctypes.CDLL(DRIVER_LIBRARY)
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _call(driver, "cuInit", 0)
    _call(driver, "cuDeviceGet", ctypes.byref(device), 0)
    _call(driver, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    return driver, context


def _call(driver: Any, function: str, *arguments: Any) -> None:
    error = getattr(driver, function)(*arguments)
    if error:
        raise OSError(f"{function}: CUDA error {error}, see nvidia-smi")
