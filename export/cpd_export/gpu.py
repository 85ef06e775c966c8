"""The first GPU of this machine, asked of the CUDA driver alone, so that nothing but the driver is needed."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from cpd.cuda_context import DRIVER_LIBRARY

MAJOR, MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU."""

    name: str
    capability: str
    """Compute capability, such as 8.9."""


def first_gpu() -> Gpu | None:
    """The first GPU, or None where there is no driver or no GPU."""
    try:
        driver = ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuInit(0) != 0 or driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    driver.cuDeviceGetName(name, len(name), device)
    numbers = []
    for attribute in (MAJOR, MINOR):
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        numbers.append(str(value.value))
    return Gpu(name.value.decode(errors="replace"), ".".join(numbers))
