"""The cuda-python adapter: a stream, a buffer each way between the host and the first GPU, and CUDA graphs."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from cuda.bindings import runtime as cudart
from numpy.typing import NDArray

from cpd.errors import EngineError

REMEDIES = {
    cudart.cudaError_t.cudaErrorInsufficientDriver: "update the NVIDIA driver: nvidia-smi shows the CUDA it runs",
    cudart.cudaError_t.cudaErrorMemoryAllocation: "free memory on the GPU, or lower export.max_batch",
}


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
    """Memory for one input and one output: on the device, and page-locked on the host, with a stream between them.

    The device copies to and from page-locked memory by itself and at its full speed, and all addresses stay the same,
    so that the copies and the work between them can be captured into a CUDA graph.
    """

    def __init__(self, input_bytes: int, output_bytes: int) -> None:
        """Allocates on the first GPU.

        Raises:
            EngineError: there is not enough memory on it.
        """
        with ExitStack() as held:  # what was there before something failed is freed

            def made(free: Any, make: Any, argument: Any) -> Any:
                found = _call(make, argument)
                held.callback(_call, free, found)
                return found

            self._stream = made(
                cudart.cudaStreamDestroy, cudart.cudaStreamCreateWithFlags, cudart.cudaStreamNonBlocking
            )
            self.stream_handle = int(self._stream)
            self.input_address = int(made(cudart.cudaFree, cudart.cudaMalloc, input_bytes))
            self.output_address = int(made(cudart.cudaFree, cudart.cudaMalloc, output_bytes))
            self._host_input = int(made(cudart.cudaFreeHost, cudart.cudaMallocHost, input_bytes))
            self._host_output = int(made(cudart.cudaFreeHost, cudart.cudaMallocHost, output_bytes))
            self._held = held.pop_all()
        self._input = _bytes_at(self._host_input, input_bytes)
        self._output = _bytes_at(self._host_output, output_bytes)

    def put(self, values: NDArray[np.uint8]) -> None:
        """Writes an array into the host's side of the input, for the next ``upload``."""
        self._input[: values.nbytes].reshape(values.shape)[...] = values

    def upload(self, size_bytes: int) -> None:
        """Begins to copy the input to the device."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        _call(cudart.cudaMemcpyAsync, self.input_address, self._host_input, size_bytes, kind, self._stream)

    def download(self, size_bytes: int) -> None:
        """Copies the output to the host's side of it once everything before on the stream is done."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _call(cudart.cudaMemcpyAsync, self._host_output, self.output_address, size_bytes, kind, self._stream)

    def get(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The output, of as many float32 values as ``download`` was asked for, once they are there."""
        self.wait()
        return self._output.view(np.float32)[: math.prod(shape)].reshape(shape).copy()

    def wait(self) -> None:
        """Returns when everything on the stream is done."""
        _call(cudart.cudaStreamSynchronize, self._stream)

    def captured(self, work: Callable[[], None]) -> Any:
        """What ``work`` puts on the stream, as a CUDA graph to ``launch``; it is not run.

        Raises:
            EngineError: it does something that cannot be captured.
        """
        _call(
            cudart.cudaStreamBeginCapture, self._stream, cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        )
        try:
            work()
        finally:
            graph = _call(cudart.cudaStreamEndCapture, self._stream)
        try:
            return _call(cudart.cudaGraphInstantiate, graph, 0)
        finally:
            _call(cudart.cudaGraphDestroy, graph)

    def launch(self, graph: Any) -> None:
        """Puts a captured graph on the stream."""
        _call(cudart.cudaGraphLaunch, graph, self._stream)

    def close(self) -> None:
        """Frees the memory and the stream."""
        self._held.close()


def destroy(graph: Any) -> None:
    """Frees a captured graph."""
    _call(cudart.cudaGraphExecDestroy, graph)


def _bytes_at(address: int, size: int) -> NDArray[np.uint8]:
    """Memory as an array, which does not own it."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


def _call(function: Any, *arguments: Any) -> Any:
    """Calls the CUDA runtime and unpacks what it returns.

    Raises:
        EngineError: it returned an error.
    """
    error, *results = function(*arguments)
    if error != cudart.cudaError_t.cudaSuccess:
        raise EngineError(
            f"{function.__name__}: {cudart.cudaGetErrorString(error)[1].decode()}",
            REMEDIES.get(error, "see nvidia-smi"),
        )
    return results[0] if results else None
