"""onnxruntime's TensorRT provider: its options, and the folder in which it keeps the engine it builds."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import onnxruntime

from cpd.errors import EngineError
from cpd_serve.runtimes.onnx import BATCH_MAX, FP32, SHORT_NAMES, open_session


def open_tensorrt(
    path: Path, data: bytes, threads: int | None, shapes: Mapping[str, tuple[int, ...]]
) -> onnxruntime.InferenceSession:
    """A session in which TensorRT runs what it can and CUDA the rest; building its engine takes up to minutes.

    The engine is kept for the next start. One that cannot be read, half written or of another GPU, is built again.

    Args:
        path, data, threads: as for ``open_session``.
        shapes: of one item of every input, without the batch.

    Raises:
        EngineError: as ``open_session``.
    """
    folder = cache_folder(data, tensorrt_version())
    kept = folder is not None and any(folder.iterdir())
    options = {**profile(shapes), **cache_options(folder)}
    providers = {SHORT_NAMES["tensorrt"]: options, SHORT_NAMES["cuda"]: FP32, SHORT_NAMES["cpu"]: {}}
    try:
        return open_session(path, data, threads, providers)
    except EngineError:
        if folder is None or not kept:
            raise
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        return open_session(path, data, threads, providers)


def profile(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """One engine for batches of every size; without a range, each larger batch would build another."""
    batches = {"min": 1, "opt": 1, "max": BATCH_MAX}
    return {
        f"trt_profile_{bound}_shapes": ",".join(
            f"{name}:{'x'.join(map(str, (batch, *shape)))}" for name, shape in shapes.items()
        )
        for bound, batch in batches.items()
    }


def cache_options(folder: Path | None) -> dict[str, str]:
    """What keeps the engine and its timings in a folder; nothing without one."""
    if folder is None:
        return {}
    kinds = ("trt_engine_cache", "trt_timing_cache")
    return {f"{kind}_enable": "1" for kind in kinds} | {f"{kind}_path": str(folder) for kind in kinds}


def cache_folder(data: bytes, version: str) -> Path | None:
    """A folder of the user's cache for one graph and the runtimes that build its engine; onnxruntime adds the GPU.

    Args:
        data: the ONNX file.
        version: of TensorRT; an engine loads in no other, so that without it nothing is kept.

    Returns:
        The folder, which exists, or None where nothing can be written there.
    """
    if not version:
        return None
    try:
        given = Path(os.environ.get("XDG_CACHE_HOME", ""))
        root = given if given.is_absolute() else Path.home() / ".cache"  # as the XDG specification says
        name = f"{hashlib.sha256(data).hexdigest()}-onnxruntime{onnxruntime.__version__}-tensorrt{version}"
        folder = root / "cpd" / "tensorrt" / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # the latter where nobody has a home
        return None
    return folder if os.access(folder, os.R_OK | os.W_OK | os.X_OK) else None


def tensorrt_version() -> str:
    """Loads the libraries of TensorRT that pip installed; empty where there are none, and the system's are used."""
    if importlib.util.find_spec("tensorrt") is None:
        return ""
    return str(importlib.import_module("tensorrt").__version__)
