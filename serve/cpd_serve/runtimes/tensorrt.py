"""The TensorRT adapter: engines of tensorrt, tensorrt_lean and tensorrt_rtx, as their manifest says.

Everything that can be known without the GPU is checked before TensorRT is touched: creating its runtime where there
is no driver can crash the process.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import math
import re
import threading
import warnings
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from cpd.cuda_context import DRIVER_LIBRARY
from cpd.errors import EngineError, EngineMismatchError
from cpd.manifest import EngineInfo, Manifest, engine_manifest_path
from cpd.tensorrt_log import keep_errors
from cpd_serve.cuda_driver import check_cuda_python, driver_present
from cpd_serve.runner import Frames, Logits, check_frames

PACKAGES = {"tensorrt": "tensorrt", "tensorrt_lean": "tensorrt_lean_cu13", "tensorrt_rtx": "tensorrt_rtx_cu13"}
"""What to pip install for each flavour."""


class TensorRtRunner:
    """An engine on the first GPU."""

    def __init__(self, path: Path) -> None:
        """Loads the engine; see ``cpd_serve.runner.open_runner``."""
        self.path = path
        data = path.read_bytes()
        self.manifest, info = read_engine_manifest(path, data)
        check_driver(path, onnx_remedy(path, info))
        self.runtime = installed_flavour(path, info)
        check_cuda_python(path)
        from cpd_serve.runtimes.cuda_buffers import CudaBuffers, destroy, first_device

        device = first_device()
        check_gpu(path, info, device.name, device.capability)
        self.provider = device.name
        trt = importlib.import_module(self.runtime)
        check_version(path, info, trt.__version__)
        self._log = keep_errors(trt)
        runtime = trt.Runtime(self._log)
        # A version-compatible engine brings the lean runtime along that runs it: code, which TensorRT asks leave for.
        runtime.engine_host_code_allowed = bool(info.options.get("version_compatible"))
        self._engine = runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            reason = self._log.last or "TensorRT gave no reason"
            raise EngineMismatchError(
                f"{path}: cannot be loaded (built for {info.target}): {reason}", rebuild_remedy(path, info.onnx)
            )
        check_tensors(path, self.manifest, info, tensors_of(self._engine))
        self._context = self._new_context(trt)
        self._max_batch = int(self._engine.get_tensor_profile_shape("frames", 0)[2][0])
        with ExitStack() as held:  # what is on the GPU is freed where something after it fails
            self._buffers = CudaBuffers(
                self._max_batch * math.prod(self.manifest.clip.shape),
                self._max_batch * len(self.manifest.labels) * 4,
            )
            held.callback(self._buffers.close)
            self._graphs: dict[int, tuple[Any, Any]] = {}
            # TensorRT for RTX captures by itself, once it has compiled its kernels for a shape
            for batch in () if hasattr(trt, "CudaGraphStrategy") else {1, self._max_batch}:
                captured = self._captured(batch, self._new_context(trt))
                if captured is not None:
                    held.callback(destroy, captured[0])
                    self._graphs[batch] = captured
            self._held = held.pop_all()
        self._lock = threading.Lock()

    def predict(self, frames: Frames) -> Logits:
        check_frames(frames, self.manifest)
        chunks = [frames[start : start + self._max_batch] for start in range(0, len(frames), self._max_batch)]
        with self._lock:  # the buffers and the context belong to one prediction at a time
            if self._engine is None:
                raise EngineError(f"{self.path}: was closed")
            return np.concatenate([self._predict(chunk) for chunk in chunks])

    def close(self) -> None:
        with self._lock:  # what a prediction is using is not freed under it
            self._held.close()
            self._graphs, self._context, self._engine = {}, None, None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _predict(self, frames: Frames) -> Logits:
        self._buffers.put(frames)
        if len(frames) in self._graphs:
            self._buffers.launch(self._graphs[len(frames)][0])
        else:
            self._enqueue(len(frames), self._context)
        return self._buffers.get((len(frames), len(self.manifest.labels)))

    def _enqueue(self, batch: int, context: Any) -> None:
        """Puts both copies and the engine between them on the stream."""
        shape = (batch, *self.manifest.clip.shape)
        self._buffers.upload(math.prod(shape))
        taken = context.set_input_shape("frames", shape)
        context.set_tensor_address("frames", self._buffers.input_address)
        context.set_tensor_address("logits", self._buffers.output_address)
        if not taken or not context.execute_async_v3(self._buffers.stream_handle):
            raise EngineError(f"{self.path}: failed on {self.provider}: {self._log.last}")
        self._buffers.download(batch * len(self.manifest.labels) * 4)

    def _captured(self, batch: int, context: Any) -> tuple[Any, Any] | None:
        """A CUDA graph for batches of one size and the context it was captured from, which must do nothing else.

        A small network waits for the launches of its kernels; a graph is one launch. None where TensorRT cannot be
        captured, which is said.
        """
        self._enqueue(batch, context)  # what a context does only once for a shape cannot be captured
        self._buffers.wait()
        try:
            return self._buffers.captured(lambda: self._enqueue(batch, context)), context
        except EngineError as error:
            warnings.warn(f"{self.path}: runs batches of {batch} without a CUDA graph: {error}", stacklevel=2)
            return None

    def _new_context(self, trt: Any) -> Any:
        """
        Raises:
            EngineError: there is too little memory for it.
        """
        settings = []
        if hasattr(trt, "CudaGraphStrategy"):
            settings.append(self._engine.create_runtime_config())
            settings[0].cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        context = self._engine.create_execution_context(*settings)
        if context is None:
            raise EngineError(
                f"{self.path}: cannot be run on {self.provider}: {self._log.last or 'TensorRT gave no reason'}",
                "free memory on the GPU, or lower export.max_batch",
            )
        return context


def read_engine_manifest(path: Path, data: bytes) -> tuple[Manifest, EngineInfo]:
    """The manifest beside an engine, once the engine is proven to be the file that the manifest describes.

    Args:
        path: the engine's.
        data: its content.

    Raises:
        EngineMismatchError: there is no manifest that can be used, or the engine is not the one it describes.
    """
    beside = engine_manifest_path(path)
    remedy = rebuild_remedy(path)
    if not beside.is_file():
        raise EngineMismatchError(f"{path}: its manifest {beside.name} is not beside it", f"copy both files; {remedy}")
    try:
        manifest = Manifest.from_json(beside.read_text(encoding="utf-8", errors="replace"), str(beside))
    except EngineError as error:
        raise EngineMismatchError(error.args[0], remedy) from error
    if manifest.engine is None:
        raise EngineMismatchError(f"{beside}: describes no engine", remedy)
    if hashlib.sha256(data).hexdigest() != manifest.engine.engine_sha256:
        raise EngineMismatchError(
            f"{path}: is not the file its manifest describes (SHA-256 differs)",
            rebuild_remedy(path, manifest.engine.onnx),
        )
    return manifest, manifest.engine


def tensors_of(engine: Any) -> dict[str, tuple[str, str, tuple[int, ...]]]:
    """Mode, type and shape of every input and output of an engine, in its own names; -1 is a size of any value."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return {
        name: (
            engine.get_tensor_mode(name).name,
            engine.get_tensor_dtype(name).name,
            tuple(engine.get_tensor_shape(name)),
        )
        for name in names
    }


def check_tensors(
    path: Path, manifest: Manifest, info: EngineInfo, found: dict[str, tuple[str, str, tuple[int, ...]]]
) -> None:
    """Memory is reserved by what the manifest says, and an engine writes as much as it was built to.

    Raises:
        EngineMismatchError: the engine takes or gives something else than clips and logits of the manifest's shapes.
    """
    batch = found.get("frames", ("", "", (-1,)))[2][:1]  # a number where it was built for batches of one size
    wanted = {
        "frames": ("INPUT", "UINT8", batch + manifest.clip.shape),
        "logits": ("OUTPUT", "FLOAT", (*batch, len(manifest.labels))),
    }
    if found != wanted:
        raise EngineMismatchError(
            f"{path}: does not match its manifest: has {found}, its manifest says {wanted}",
            rebuild_remedy(path, info.onnx),
        )


def check_driver(path: Path, remedy: str) -> None:
    """Raises EngineError where no CUDA driver is: an engine can be neither run nor, for this machine, be rebuilt."""
    if not driver_present():
        raise EngineError(
            f"{path}: needs an NVIDIA GPU, and this machine has no CUDA driver ({DRIVER_LIBRARY})", remedy
        )


def installed_flavour(path: Path, info: EngineInfo) -> str:
    """The installed module that can run the engine.

    Raises:
        EngineMismatchError: none is installed.
    """
    wanted = [info.flavour]
    if info.flavour == "tensorrt" and info.options.get("version_compatible"):
        wanted.append("tensorrt_lean")
    if not set(wanted) <= set(PACKAGES):
        raise EngineMismatchError(
            f"{path}: built with {info.flavour}, which is not a TensorRT known here", rebuild_remedy(path, info.onnx)
        )
    for module in wanted:
        if importlib.util.find_spec(module) is not None:
            return module
    raise EngineMismatchError(
        f"{path}: needs {wanted[-1]}, which is not installed",
        f"pip install {PACKAGES[wanted[-1]]}; {rebuild_remedy(path, info.onnx)}",
    )


def check_version(path: Path, info: EngineInfo, running: str) -> None:
    """Engines load in the version that built them; version-compatible ones in later ones of the same major.

    Raises:
        EngineMismatchError: the running version is another.
    """

    def parts(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in version.split(".") if part.isdecimal())

    built, here = parts(info.version), parts(running)
    compatible = bool(info.options.get("version_compatible")) and here[:1] == built[:1] and here >= built
    if here[:3] != built[:3] and not compatible:
        raise EngineMismatchError(
            f"{path}: built for {info.flavour} {info.version}, running {running}",
            f"pip install {PACKAGES[info.flavour]}=={info.version}; {rebuild_remedy(path, info.onnx)}",
        )


def check_gpu(path: Path, info: EngineInfo, name: str, capability: tuple[int, int]) -> None:
    """Engines run on GPUs of the compute capabilities they were built for; a + means later ones too.

    Raises:
        EngineMismatchError: the GPU is another.
    """
    targets = re.findall(r"(\d+)\.(\d+)(\+?)", info.target.rpartition("capability")[2])
    if not targets:
        return
    built = [((int(major), int(minor)), bool(later)) for major, minor, later in targets]
    if not any(capability == target or (later and capability >= target) for target, later in built):
        raise EngineMismatchError(
            f"{path}: built for {info.target}, and this is {name} of {capability[0]}.{capability[1]}",
            rebuild_remedy(path, info.onnx),
        )


def onnx_remedy(path: Path, info: EngineInfo) -> str:
    """What can be served instead: the ONNX file the engine was made from, if it is still beside it."""
    onnx = path.with_name(info.onnx)
    if onnx.is_file():
        return f"{onnx} runs here: cpd-serve --engine {onnx}"
    return f"{info.onnx}, which it was built from, would run here; it is not beside the engine"


def rebuild_remedy(path: Path, onnx: str = "") -> str:
    """How an engine that does not fit is made anew for this machine."""
    source = path.with_name(onnx or path.with_suffix(".onnx").name)
    if source.is_file():
        return f"cpd-serve --rebuild builds it anew from {source}"
    return f"with {source.name} beside it, cpd-serve --rebuild builds it anew"
