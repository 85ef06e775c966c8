"""Engines on disk: written with the manifest that knows them, and built again from their ONNX file on any machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from cpd.errors import EngineError, ExportError
from cpd.lock import alone_in, atomic, content_sha256
from cpd.manifest import EngineInfo, Manifest, engine_manifest_path
from cpd.onnx_file import manifest_of, read_onnx
from cpd_export.engine import BuiltEngine, build_engine
from cpd_export.files import write_file
from cpd_export.flavours import BuildOptions, choose_flavour, for_this_machine

Prove = Callable[[Path, Path], None]
"""Takes an engine and the ONNX file it was built from."""


@dataclass(frozen=True, slots=True)
class NewEngine:
    """An engine that is built and not yet on disk."""

    data: bytes
    manifest: Manifest
    """What is to lie beside it."""
    info: EngineInfo
    """The manifest's part about the engine."""


def engine_of(onnx: Path, data: bytes, options: BuildOptions, module: str | None = None) -> NewEngine:
    """Builds an engine of an exported model; the timing cache of its folder is used and kept, nothing else written.

    Args:
        onnx: where the model lies, or will lie, beside the engine.
        data: the model's file; its manifest is checked against it first.
        options: how to build.
        module: flavour of TensorRT to build with; default the best one here.

    Raises:
        EngineError: the ONNX file is damaged, changed or not one of ours.
        ExportError: no engine can be built here, or not from this file.
    """
    manifest = manifest_of(data, str(onnx))
    flavour = choose_flavour(options, module, manifest.precision)
    cache = onnx.with_name(f"{flavour.module}.timing.cache")
    built, timings = build_engine(data, options, flavour, cache.read_bytes() if cache.is_file() else b"")
    if timings:
        write_file(cache, timings)
    info = _info(built, onnx.name, data, options)
    # What was measured of the ONNX file in onnxruntime was not measured of the engine.
    return NewEngine(built.data, replace(manifest, engine=info, accuracy={}, latency_ms={}), info)


def make_engine(
    onnx: Path, engine: Path, options: BuildOptions, module: str | None = None, prove: Prove | None = None
) -> EngineInfo:
    """Builds an engine from an exported ONNX file and puts it in its place; nothing is replaced unless that succeeds.

    Args:
        onnx: an exported model.
        engine: where to write, in the same folder.
        options: how to build.
        module: flavour of TensorRT to build with; default the best one here.
        prove: is shown the new engine first, with its manifest beside it, and raises what is wrong with it.

    Raises:
        EngineError: the ONNX file is missing, damaged, changed or not one of ours.
        ExportError: no engine can be built here, or not from this file.
    """
    new = engine_of(onnx, read_onnx(onnx), options, module)
    if prove is not None:
        with TemporaryDirectory() as folder:
            trial = Path(folder, engine.name)
            trial.write_bytes(new.data)
            engine_manifest_path(trial).write_text(new.manifest.to_json(), encoding="utf-8")
            prove(trial, onnx)
    beside = engine_manifest_path(engine)
    # Alone, or of two that build it at once one could leave its engine beside the manifest of the other.
    with alone_in(engine.parent), atomic(beside) as manifest, atomic(engine) as plan:
        manifest.write_text(new.manifest.to_json(), encoding="utf-8")
        plan.write_bytes(new.data)
        beside.unlink(missing_ok=True)  # an engine without a manifest is refused, one with another's could be believed
    return new.info


def rebuild(path: Path, prove: Prove | None = None) -> EngineInfo:
    """Builds an engine anew for this machine, from the ONNX file beside it and with the options it had.

    Options that cannot be had here are left out, which is said.

    Args:
        path: the engine, present or not, or the ONNX file. An engine whose manifest cannot be read is built with
            default options from the ONNX file of the same name.
        prove: as for ``make_engine``.

    Raises:
        EngineError: the ONNX file is missing, damaged, not one of ours or another than the engine was built from.
        ExportError: no engine can be built here.
    """
    engine = path.with_suffix(".trt")
    onnx, options = engine.with_suffix(".onnx"), BuildOptions()
    try:
        manifest = Manifest.from_json(engine_manifest_path(engine).read_text(encoding="utf-8"), str(engine))
    except (EngineError, OSError, UnicodeDecodeError):
        manifest = None
    if manifest is not None and manifest.engine is not None:
        onnx = engine.with_name(manifest.engine.onnx)
        options = _options(manifest.engine)
    if not onnx.is_file():
        raise EngineError(f"{engine}: cannot be built again without {onnx.name}", "copy it beside the engine")
    if manifest is not None and manifest.engine is not None and content_sha256(onnx) != manifest.engine.onnx_sha256:
        raise EngineError(
            f"{onnx}: is another model than the one {engine.name} was built from (SHA-256 differs)",
            f"copy that one beside the engine, or delete {engine_manifest_path(engine).name} to build one of this",
        )
    flavour = choose_flavour(BuildOptions())
    here = for_this_machine(flavour, options)
    lost = [name for name, value in options.to_dict().items() if value is True and not getattr(here, name)]
    if lost:
        click.echo(
            f"warning: {engine} is built without {' and '.join(lost)}, which {flavour.module} lacks here", err=True
        )
    return make_engine(onnx, engine, here, flavour.module, prove)


def _options(info: EngineInfo) -> BuildOptions:
    """The options an engine was built with, but for the GPUs: it is built again because this one is another."""
    known = {field.name for field in fields(BuildOptions)} - {"compute_capabilities"}
    try:
        return BuildOptions(**{name: value for name, value in info.options.items() if name in known})
    except ValueError as error:
        raise ExportError(f"the engine's options cannot be used: {error}", "run the export stage again") from error


def _info(built: BuiltEngine, onnx_name: str, onnx: bytes, options: BuildOptions) -> EngineInfo:
    return EngineInfo(
        flavour=built.flavour,
        version=built.version,
        target=built.target,
        onnx=onnx_name,
        onnx_sha256=hashlib.sha256(onnx).hexdigest(),
        engine_sha256=hashlib.sha256(built.data).hexdigest(),
        options=options.to_dict(),
    )
