"""One way to run a model, whatever runs it.

    with open_runner("student.onnx") as runner:
        logits = runner.predict(frames)

``runner.runtime`` and ``runner.provider`` say what it truly runs on: a provider that was asked for and is not in use
is an error, never a fallback.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from cpd.errors import EngineError
from cpd.manifest import Manifest
from cpd.threads import usable_cpus

Frames = NDArray[np.uint8]
"""(batch, frames, height, width, 3) uint8 RGB, as the manifest's ClipSpec says."""
Logits = NDArray[np.float32]
"""(batch, classes) float32, in the order of the manifest's labels."""


class Runner(Protocol):
    """A loaded model. Calls of ``predict`` may come from several threads."""

    path: Path
    manifest: Manifest
    runtime: str
    """What runs it: onnxruntime, tensorrt, tensorrt_lean or tensorrt_rtx."""
    provider: str
    """Where it runs: an onnxruntime execution provider, or the GPU."""

    def predict(self, frames: Frames) -> Logits:
        """Runs the model and waits for the result.

        Raises:
            ValueError: frames of another shape or type than the manifest's.
            EngineError: the runtime failed, or the model was closed.
        """

    def close(self) -> None:
        """Frees what the model holds; nothing can be predicted after."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_runner(path: str | Path, provider: str | None = None, threads: int | None = None) -> Runner:
    """Loads a model.

    Args:
        path: an ``.onnx`` file, or a ``.trt`` engine with its manifest beside it.
        provider: what to run an ONNX file on: cpu, cuda, tensorrt or the full name of an onnxruntime provider. By
            default the GPU where this machine has one and onnxruntime was built for it, else the CPU.
        threads: how many CPU threads one prediction may use, no more than there are CPUs; by default as many, or one
            for a small model, which more would slow down.

    Raises:
        EngineError: the file is missing, damaged or not one of ours, or what it needs is not on this machine.
    """
    if threads is not None and not 1 <= threads <= usable_cpus():  # onnxruntime hangs where it gets no more threads
        raise EngineError(f"{threads} threads cannot run on {usable_cpus()} CPUs", f"name 1 to {usable_cpus()}")
    path = Path(path)
    load = LOADERS.get(path.suffix)
    if load is None:
        raise EngineError(f"{path}: not a model that can be served", f"name a {' or '.join(LOADERS)} file")
    if not os.path.isfile(path):  # noqa: PTH113  # Path.is_file raises where the name is too long or not to be read
        raise EngineError(f"{path}: no such file", "export it with cpd-pipeline run")
    return load(path, provider, threads)


def check_frames(frames: Frames, manifest: Manifest) -> None:
    """Raises ValueError for frames that the model does not take; a runtime would say it less clearly, or not at all."""
    shape: tuple[int, ...] = getattr(frames, "shape", ())
    kind = getattr(frames, "dtype", type(frames).__name__)
    if kind != np.uint8 or shape[1:] != manifest.clip.shape or shape[0] == 0:
        want = ", ".join(map(str, manifest.clip.shape))
        raise ValueError(f"frames must be (batch, {want}) uint8, got {shape} {kind}")


def _load_onnx(path: Path, provider: str | None, threads: int | None) -> Runner:
    from cpd_serve.runtimes.onnx import load

    return load(path, provider, threads)


def _load_engine(path: Path, provider: str | None, threads: int | None) -> Runner:
    del threads  # an engine's work is on the GPU
    from cpd_serve.runtimes.tensorrt import TensorRtRunner

    if provider is not None:
        raise EngineError(f"{path}: an engine has no choice of provider", "leave --provider out")
    return TensorRtRunner(path)


LOADERS: dict[str, Callable[[Path, str | None, int | None], Runner]] = {".onnx": _load_onnx, ".trt": _load_engine}
