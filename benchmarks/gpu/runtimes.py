"""Every way to run a model that is measured, and the process that runs one of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rows import BATCHES, reason

PRECISIONS = ("fp32", "fp16", "int8")
PROVIDERS = {
    "onnxruntime CPU": "CPUExecutionProvider",
    "onnxruntime CUDA": "CUDAExecutionProvider",
    "onnxruntime TensorRT": "TensorrtExecutionProvider",
}
FLAVOURS = ("tensorrt", "tensorrt_lean", "tensorrt_rtx")
RUNTIMES = (
    "torch eager", "tensorrt", "tensorrt_rtx", "onnxruntime CUDA", "onnxruntime TensorRT", "onnxruntime CPU",
    "tensorrt_lean", "torch.compile",
)  # fmt: skip
"""In the order in which they are measured: should time run out, what the aims need is there, and the slowest last."""
Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def obstacle(runtime: str, precision: str, device: str) -> str:
    """Why a row cannot be measured here, as far as it is known without trying; empty if it can."""
    if runtime in FLAVOURS and importlib.util.find_spec(runtime) is None:
        return f"{runtime} is not installed"
    if runtime in PROVIDERS:
        import onnxruntime

        if PROVIDERS[runtime] not in onnxruntime.get_available_providers():
            return f"the onnxruntime installed here has no {PROVIDERS[runtime]}"
    if runtime.startswith("torch") and precision == "int8":
        return "torch runs no int8 form of these networks; int8 is a Q/DQ graph in ONNX"
    if device == "cpu" and runtime not in ("torch eager", "onnxruntime CPU"):
        return "no CUDA GPU"
    if device == "cpu" and runtime == "torch eager" and precision == "fp16":
        return "half precision is for GPUs"
    return ""


def serve(pipe: Connection, runtime: str, precision: str, role: str, folder: Path, device: str) -> None:
    """Loads a model, answers all clips, then times calls as it is asked: (batch, calls) -> seconds of each."""
    from cpd_serve.latency import time_block

    try:
        predict = loaded(runtime, precision, role, folder, device)
        frames = np.load(folder / "frames.npy")
        batches = {batch: np.ascontiguousarray(frames[:batch]) for batch in BATCHES}
        logits = predict(batches[max(BATCHES)])
        for batch in BATCHES:
            for _ in range(3):
                predict(batches[batch])
        pipe.send(("ready", logits))
        while True:
            batch, calls = pipe.recv()
            pipe.send(("seconds", time_block(lambda: predict(batches[batch]), calls).tolist()))  # noqa: B023
    except EOFError:
        return
    except Exception as error:  # told to the parent, whatever it is
        pipe.send(("failed", reason(error)))


def loaded(runtime: str, precision: str, role: str, folder: Path, device: str) -> Predict:
    """Frames in host memory to logits in host memory."""
    from cpd_serve.runner import open_runner

    if runtime.startswith("torch"):
        return in_torch(folder / f"{role}.safetensors", precision, device, compiled=runtime == "torch.compile")
    onnx = folder / f"{role}.{precision}.onnx"
    if runtime in FLAVOURS:
        return open_runner(engine_of(onnx, runtime)).predict
    return open_runner(onnx, PROVIDERS[runtime]).predict


def in_torch(checkpoint: Path, precision: str, device: str, compiled: bool) -> Predict:
    import torch

    from cpd_train.common import on_device
    from cpd_train.models import read_checkpoint

    model: Any = on_device(read_checkpoint(checkpoint).model, torch.device(device))
    model = model.half() if precision == "fp16" else model
    if compiled:  # with CUDA graphs: shapes are fixed, and a small network waits for its launches
        model = torch.compile(model, mode="reduce-overhead", dynamic=False)

    def predict(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            logits: NDArray[np.float32] = model(torch.from_numpy(frames).to(device)).float().cpu().numpy()
        return logits

    return predict


def engine_of(onnx: Path, flavour: str) -> Path:
    """The engine of an ONNX file for this GPU, in a folder of its own: its manifest names the file beside it.

    TensorRT for RTX is asked for this GPU whether it lists it or not. The lean runtime runs what tensorrt builds.
    """
    from cpd.manifest import Manifest, engine_manifest_path
    from cpd_export.engine_file import make_engine
    from cpd_export.flavours import CURRENT, BuildOptions

    home = onnx.parent / f"{flavour}-{onnx.stem}"
    home.mkdir(exist_ok=True)
    copy = home / onnx.name
    copy.write_bytes(onnx.read_bytes())
    engine = copy.with_suffix(".trt")
    options = BuildOptions(
        max_batch=max(BATCHES),
        version_compatible=flavour == "tensorrt_lean",
        compute_capabilities=(CURRENT,) if flavour == "tensorrt_rtx" else (),
    )
    info = make_engine(copy, engine, options, flavour.removesuffix("_lean"))
    if flavour != info.flavour:  # the runner would take tensorrt, which is there too
        beside = engine_manifest_path(engine)
        manifest = Manifest.from_json(beside.read_text(), beside.name)
        beside.write_text(replace(manifest, engine=replace(info, flavour=flavour)).to_json())
    return engine
