"""Whether an NVIDIA driver is on this machine, asked without creating anything that crashes where there is none."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

from cpd.container import NVDEC_LIBRARY, Decoder
from cpd.cuda_context import DRIVER_LIBRARY
from cpd.errors import EngineError


def driver_present() -> bool:
    """Whether the CUDA driver's library can be loaded."""
    return _loads(DRIVER_LIBRARY)


def check_decoder(decoder: Decoder) -> None:
    """
    Raises:
        EngineError: nvdec is asked for, and a part of the driver that it needs cannot be loaded.
    """
    for library in (DRIVER_LIBRARY, NVDEC_LIBRARY) if decoder == "nvdec" else ():
        if not _loads(library):
            raise EngineError(
                f"decoder nvdec is asked for, but the NVIDIA driver's {library} cannot be loaded",
                "use --decoder cpu; a container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility,video",
            )


def check_cuda_python(path: Path) -> None:
    """Raises EngineError where cuda-python, which moves frames to the GPU, is not installed."""
    try:  # other packages live in the namespace cuda too
        found = importlib.util.find_spec("cuda.bindings") is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise EngineError(f"{path}: needs cuda-python, which is not installed", "pip install cuda-python")


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
