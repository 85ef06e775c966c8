"""What training asks of an NVIDIA GPU: whether torch can use it, in which precision networks run, how busy it is."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import threading
import warnings
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from cpd.cuda_context import DRIVER_LIBRARY
from cpd.errors import TrainingError

SAMPLE_S = 0.25
"""Between two questions to the driver, which answers for about the last sixth of a second to a second."""

BF16_FROM = (8, 0)
"""The compute capability from which a GPU has instructions for bf16; torch emulates it on older ones, slowly."""
LEAST_SCALE = 1.0
"""Of the losses in fp16: a gradient that overflows even so does not do so for want of range."""


def networks_in(device: torch.device, precision: str = "auto") -> torch.autocast:
    """The arithmetic of networks in training, which ``arithmetic`` chooses.

    Losses stay outside: sums of many squares and quantiles need fp32.
    """
    dtype = arithmetic(device, precision)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def arithmetic(device: torch.device, precision: str) -> torch.dtype:
    """What networks are computed in.

    Args:
        device: where they run.
        precision: fp32; bf16; fp16; auto, on a GPU bf16 or, where it has no instructions for that, fp16, and fp32
            elsewhere; or fastest, the same on a GPU, and bf16 on a CPU that has instructions for it.
    """
    match precision:
        case "fp32":
            return torch.float32
        case "fp16":
            return torch.float16
        case "bf16":
            if device.type == "cuda" and not has_bf16(device):
                warnings.warn("this GPU has no instructions for bf16, which is slow: use precision fp16", stacklevel=2)
            return torch.bfloat16
        case "auto" | "fastest" if device.type == "cuda":
            return torch.bfloat16 if has_bf16(device) else torch.float16
        case "fastest" if cpu_has_bf16():
            return torch.bfloat16
        case "auto" | "fastest":
            return torch.float32
    raise ValueError(f"no precision: {precision!r}")


def has_bf16(device: torch.device) -> bool:
    """Whether a GPU has instructions for bf16. ``torch.cuda.is_bf16_supported`` counts an emulation too."""
    return torch.cuda.get_device_capability(device) >= BF16_FROM


def scaler_of(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Scales losses where networks run in fp16, whose small gradients would be zero; elsewhere it does nothing.

    It halves its scale and leaves a step out where a gradient overflows (arXiv 1710.03740).
    """
    return torch.amp.GradScaler(device.type, enabled=arithmetic(device, precision) == torch.float16)


@lru_cache
def cpu_has_bf16() -> bool:
    """Whether the CPU has instructions for bf16; without them it is many times slower than fp32."""
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return flags is not None and not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags[1].split())


def choose_device(name: str) -> torch.device:
    """cpu or cuda for auto | cpu | cuda.

    Raises:
        TrainingError: cuda is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError(
            f"device cuda is asked for, but torch sees no CUDA GPU: {why_no_gpu()}", "use --device cpu, or mend that"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def why_no_gpu() -> str:
    """Why torch has no CUDA GPU here, where it has none."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    try:
        driver = ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return f"this machine has no NVIDIA driver ({DRIVER_LIBRARY})"
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    return driver_obstacle(version.value, torch.version.cuda, torch.__version__)


def driver_obstacle(driver: int, needed: str, torch_version: str) -> str:
    """What a driver says against torch.

    Args:
        driver: the newest CUDA it runs, as cuDriverGetVersion writes it: 12040 is 12.4.
        needed: the CUDA that torch was built for, such as 13.0.
        torch_version: of torch.
    """
    major, minor = driver // 1000, driver % 1000 // 10
    if major < int(needed.partition(".")[0]):  # a driver runs every minor version of its major one
        return f"the NVIDIA driver runs CUDA up to {major}.{minor}, and torch {torch_version} needs CUDA {needed}"
    return "the NVIDIA driver finds no GPU that this process may use; see nvidia-smi and CUDA_VISIBLE_DEVICES"


class Utilisation:
    """How busy the GPU is while the block runs, asked in a thread of its own where NVML (nvidia-ml-py) is installed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._samples: list[int] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def take(self) -> dict[str, float]:
        """Since the last call, as far as it is known; nothing on a CPU.

        Returns:
            ``gpu_utilisation``: mean fraction of time with a kernel running; ``gpu_memory_peak_gb``: of torch's own.
        """
        if self._device.type != "cuda":
            return {}
        samples, self._samples = self._samples, []
        peak_gb = torch.cuda.max_memory_allocated(self._device) / 1e9
        torch.cuda.reset_peak_memory_stats(self._device)
        busy = {"gpu_utilisation": round(sum(samples) / len(samples) / 100, 3)} if samples else {}
        return {**busy, "gpu_memory_peak_gb": round(peak_gb, 3)}

    def __enter__(self) -> Self:
        if self._device.type == "cuda" and importlib.util.find_spec("pynvml") is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_S):
            try:
                self._samples.append(torch.cuda.utilization(self._device))
            except Exception:  # NVML refuses some GPUs (MIG) and has its own exceptions: then there is nothing to tell
                return
