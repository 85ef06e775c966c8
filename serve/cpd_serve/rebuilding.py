"""An engine that does not fit this machine is built anew from the ONNX file beside it, where the user asks for that."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cpd.errors import EngineError, EngineMismatchError, install
from cpd_serve.cuda_driver import driver_present
from cpd_serve.runner import Runner, open_runner
from cpd_serve.twin import check_engine

if TYPE_CHECKING:
    from cpd.manifest import EngineInfo


def open_engine(
    path: str | Path, provider: str | None = None, threads: int | None = None, may_rebuild: bool = False
) -> Runner:
    """Loads a model as ``open_runner`` does, after building its engine anew if it does not fit and that is allowed.

    Raises:
        EngineError: the model cannot be loaded, or the engine not be built.
        ExportError: no engine can be built here.
    """
    path = Path(path)
    if not may_rebuild or path.suffix != ".trt":
        return open_runner(path, provider, threads)
    try:
        if path.is_file():
            return open_runner(path, provider, threads)
        mismatch = f"{path}: no such file"
    except EngineMismatchError as error:
        mismatch = error.args[0]
    from cpd_serve.runtimes.tensorrt import check_driver

    onnx = path.with_suffix(".onnx")
    check_driver(path, f"{onnx} may run here" if onnx.is_file() else "")  # or the time to build it would be lost
    click.echo(f"{mismatch}; building it anew", err=True)
    rebuild(path)
    return open_runner(path, provider, threads)


def rebuild(path: Path) -> EngineInfo:
    """Builds an engine for this machine from the ONNX file beside it; where there is a GPU, one that answers alike.

    Raises:
        EngineError: what builds engines is not installed, the ONNX file is missing or damaged, or the new engine does
            not run or answers otherwise; the old one then stays.
        ExportError: no engine can be built here.
    """
    try:  # by name: serving must not depend on what exports, which a device may lack
        engine_file = importlib.import_module("cpd_export.engine_file")
    except ModuleNotFoundError as error:
        raise EngineError(
            f"{path}: cannot be built anew: {error.name} is not installed",
            f"{install('cuda')}, or export it on another machine",
        ) from error
    info: EngineInfo = engine_file.rebuild(path, prove if driver_present() else None)
    return info


def prove(new: Path, onnx: Path) -> None:
    """
    Raises:
        EngineError: an engine that was just built does not run here, or answers otherwise than its ONNX file.
    """
    try:
        check_engine(new, onnx)
    except EngineError as error:
        told = error.args[0].replace(str(new), f"the new {new.name}")
        raise EngineError(f"{told}; it is not put in place", f"cpd-serve --engine {onnx} runs here") from error
