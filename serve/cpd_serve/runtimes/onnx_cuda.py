"""onnxruntime on a GPU: whole clips through page-locked memory into memory of the device, replayed as CUDA graphs.

A small network waits for the launches of its kernels, and a CUDA graph is one launch.
"""

from __future__ import annotations

import math
import threading
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from cpd.errors import EngineError
from cpd.manifest import Manifest
from cpd_serve.cuda_driver import check_cuda_python
from cpd_serve.runner import Frames, Logits, check_frames
from cpd_serve.runtimes.onnx import BATCH_MAX, FP32, SHORT_NAMES, OnnxRunner, open_session, reason
from cpd_serve.runtimes.onnx_tensorrt import open_tensorrt

if TYPE_CHECKING:
    from cpd_serve.runtimes.cuda_buffers import CudaBuffers

CUDA, TENSORRT, CPU = (SHORT_NAMES[name] for name in ("cuda", "tensorrt", "cpu"))
REFUSES_GRAPHS = "as requested by the user"
"""In onnxruntime's message where a model cannot be captured as a whole."""


def load_on_device(path: Path, data: bytes, manifest: Manifest, provider: str, threads: int | None) -> OnnxRunner:
    """Loads a graph of whole clips onto the first GPU; see ``cpd_serve.runner.open_runner``.

    Args:
        path, data, manifest: the ONNX file.
        provider: CUDA's or TensorRT's.
        threads: for what runs on the CPU.
    """
    check_cuda_python(path)
    from cpd_serve.runtimes.cuda_buffers import CudaBuffers, first_device

    first_device()
    session = _session(path, data, manifest, provider, threads)
    sizes = BATCH_MAX * math.prod(manifest.clip.shape), BATCH_MAX * len(manifest.labels) * 4
    with ExitStack() as held:
        buffers = CudaBuffers(*sizes)
        held.callback(buffers.close)
        runner = OnnxDeviceRunner(path, manifest, session, provider, buffers)
        held.pop_all()  # from now on the runner's
    return runner


def _session(
    path: Path, data: bytes, manifest: Manifest, provider: str, threads: int | None
) -> onnxruntime.InferenceSession:
    if provider == TENSORRT:
        return open_tensorrt(path, data, threads, {"frames": manifest.clip.shape})
    try:
        return open_session(path, data, threads, {CUDA: {"enable_cuda_graph": "1", **FP32}, CPU: {}})
    except EngineError as error:
        if REFUSES_GRAPHS not in str(error):
            raise
        warnings.warn(f"runs without CUDA graphs: {error}", stacklevel=2)
        return open_session(path, data, threads, {CUDA: FP32, CPU: {}})


class OnnxDeviceRunner(OnnxRunner):
    """A graph that takes whole clips, in onnxruntime on a GPU: from memory of the device, to memory of the device."""

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        session: onnxruntime.InferenceSession,
        provider: str,
        buffers: CudaBuffers,
        device: str = "cuda",
    ) -> None:
        """
        Args:
            path, manifest, session, provider: of the graph.
            buffers: for ``BATCH_MAX`` clips, in the memory of ``device``; closed with the runner.
            device: onnxruntime's name of it.

        Raises:
            EngineError: the graph does not take and give what its manifest says.
        """
        super().__init__(path, manifest, session, provider)
        self._buffers, self._device = buffers, device
        self._bound: dict[int, tuple[onnxruntime.IOBinding, onnxruntime.RunOptions]] = {}
        self._lock = threading.Lock()

    def predict(self, frames: Frames) -> Logits:
        check_frames(frames, self.manifest)
        chunks = [frames[start : start + BATCH_MAX] for start in range(0, len(frames), BATCH_MAX)]
        with self._lock:  # the buffers belong to one prediction at a time
            self._opened()
            return np.concatenate([self._predict(chunk) for chunk in chunks])

    def close(self) -> None:
        with self._lock:  # what a prediction is using is not freed under it
            self._bound.clear()
            super().close()
            self._buffers.close()

    def _predict(self, frames: Frames) -> Logits:
        shape = (len(frames), len(self.manifest.labels))
        if len(frames) not in self._bound:
            self._bound[len(frames)] = self._bind(frames.shape, shape)
        self._buffers.put(frames)
        self._buffers.upload(frames.nbytes)
        self._buffers.wait()  # onnxruntime has a stream of its own, which it waits for itself
        try:
            self._session.run_with_iobinding(*self._bound[len(frames)])
        except Exception as error:
            raise EngineError(f"{self.path}: failed on {self.provider}: {reason(error)}") from error
        self._buffers.download(math.prod(shape) * 4)
        return self._buffers.get(shape)

    def _bind(
        self, frames: tuple[int, ...], logits: tuple[int, ...]
    ) -> tuple[onnxruntime.IOBinding, onnxruntime.RunOptions]:
        """The graph between the buffers for batches of one size, which have a CUDA graph of their own."""
        binding, options = self._session.io_binding(), onnxruntime.RunOptions()
        binding.bind_input("frames", self._device, 0, np.uint8, frames, self._buffers.input_address)
        binding.bind_output("logits", self._device, 0, np.float32, logits, self._buffers.output_address)
        options.add_run_config_entry("gpu_graph_id", str(frames[0]))
        return binding, options
