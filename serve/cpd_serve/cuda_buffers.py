"""The cuda-python adapter: one stream, and one buffer each way between the host and the first GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from cuda.bindings import runtime as cudart
from numpy.typing import NDArray

from cpd.errors import EngineError


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU."""

    name: str
    capability: tuple[int, int]
    """Compute capability: major and minor."""


def first_device() -> Device:
    """The first GPU, which everything here runs on.

    Raises:
        EngineError: there is none that the driver can use.
    """
    _call(cudart.cudaSetDevice, 0)
    properties = _call(cudart.cudaGetDeviceProperties, 0)
    return Device(properties.name.decode(), (properties.major, properties.minor))


class CudaBuffers:
    """Device memory of a fixed size for one input and one output."""

    def __init__(self, input_bytes: int, output_bytes: int) -> None:
        """Allocates on the first GPU.

        Raises:
            EngineError: there is not enough memory on it.
        """
        self.input_address: int = _call(cudart.cudaMalloc, input_bytes)
        self.output_address: int = _call(cudart.cudaMalloc, output_bytes)
        self._stream = _call(cudart.cudaStreamCreate)
        self.stream_handle = int(self._stream)

    def upload(self, values: NDArray[Any]) -> None:
        """Copies a contiguous array to the input; its memory must stay until ``download`` returns."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        _call(cudart.cudaMemcpyAsync, self.input_address, values.ctypes.data, values.nbytes, kind, self._stream)

    def download(self, values: NDArray[np.float32]) -> None:
        """Fills a contiguous array from the output, once everything before it on the stream is done."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _call(cudart.cudaMemcpyAsync, values.ctypes.data, self.output_address, values.nbytes, kind, self._stream)
        _call(cudart.cudaStreamSynchronize, self._stream)

    def close(self) -> None:
        _call(cudart.cudaStreamDestroy, self._stream)
        _call(cudart.cudaFree, self.input_address)
        _call(cudart.cudaFree, self.output_address)


def _call(function: Any, *arguments: Any) -> Any:
    """Calls the CUDA runtime and unpacks what it returns.

    Raises:
        EngineError: it returned an error.
    """
    error, *results = function(*arguments)
    if error != cudart.cudaError_t.cudaSuccess:
        raise EngineError(f"{function.__name__}: {cudart.cudaGetErrorString(error)[1].decode()}", "see nvidia-smi")
    return results[0] if results else None
