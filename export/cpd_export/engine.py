"""The TensorRT builder: one adapter for every flavour of it, which to the builder differ by a module name.

Networks are strongly typed: the ONNX file says every precision, and the builder chooses nothing. Neither torch nor
onnx is needed here, so that a device can build its own engine.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from cpd.errors import CpdError, ExportError
from cpd.tensorrt_log import keep_errors
from cpd_export.flavours import CURRENT, BuildOptions, Flavour
from cpd_export.gpu import first_gpu


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """A serialised engine and where it runs."""

    data: bytes
    flavour: str
    version: str
    target: str
    """GPU and compute capability it was built on, or the capabilities it was built for."""


def build_engine(
    onnx: bytes, options: BuildOptions, flavour: Flavour, timing_cache: bytes = b""
) -> tuple[BuiltEngine, bytes]:
    """Builds an engine for batches of 1 to ``options.max_batch`` clips.

    Args:
        onnx: an exported model, one file, with a single input of dynamic batch.
        options: checked with ``check_options``.
        flavour: from ``choose_flavour``.
        timing_cache: what an earlier build with this flavour measured; an unusable one is measured again.

    Returns:
        The engine, and the timing cache for the next build: empty for flavours that measure nothing.

    Raises:
        ExportError: TensorRT cannot read the graph or cannot build it; names the node or the limit.
    """
    try:
        return _built(onnx, options, flavour, timing_cache)
    except CpdError:
        raise
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:  # from TensorRT's bindings
        raise _build_error(flavour, options, str(error).strip().partition("\n")[0]) from error


def _built(onnx: bytes, options: BuildOptions, flavour: Flavour, timing_cache: bytes) -> tuple[BuiltEngine, bytes]:
    trt = importlib.import_module(flavour.module)
    log = keep_errors(trt)
    builder = trt.Builder(log)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx):
        raise ExportError(f"{flavour.module} cannot read the graph: {_parser_reason(parser)}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    # TensorFloat-32 keeps ten bits of the mantissa: a graph that says fp32 shall be fp32.
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.compute_capabilities:
        config.num_compute_capabilities = len(options.compute_capabilities)
        for index, capability in enumerate(options.compute_capabilities):
            name = "CURRENT" if capability == CURRENT else "SM" + capability.replace(".", "")
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        smallest, largest = ((batch, *tuple(tensor.shape)[1:]) for batch in (1, options.max_batch))
        profile.set_shape(tensor.name, smallest, smallest, largest)
    config.add_optimization_profile(profile)
    cache = _attach_cache(config, timing_cache) if flavour.needs_gpu else None
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _build_error(flavour, options, log.last)
    engine = BuiltEngine(bytes(plan), flavour.module, trt.__version__, _target(flavour, options))
    return engine, bytes(cache.serialize()) if cache is not None else b""


def _target(flavour: Flavour, options: BuildOptions) -> str:
    gpu = first_gpu() if flavour.needs_gpu or CURRENT in options.compute_capabilities else None
    if gpu is not None:
        return f"{gpu.name}, compute capability {'8.0+' if options.hardware_compatible else gpu.capability}"
    return f"compute capability {', '.join(options.compute_capabilities or flavour.default_targets)}"


def _strongly_typed(trt: Any) -> int:
    """Network flags: TensorRT 11 knows no other networks and may drop the flag; 10 and RTX have to be told."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _attach_cache(config: Any, data: bytes) -> Any:
    """Gives the builder an earlier timing cache, or an empty one if that does not fit this GPU or version."""
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _parser_reason(parser: Any) -> str:
    """The first error, with the operator it is about."""
    if parser.num_errors == 0:
        return "TensorRT gave no reason"
    error = parser.get_error(0)
    node = f"{error.node_operator()} node {error.node_name()}: " if error.node_operator() else ""
    return node + " ".join(error.desc().split())


def _build_error(flavour: Flavour, options: BuildOptions, reason: str) -> ExportError:
    remedy = ""
    if "workspace" in reason or "OutOfMemory" in reason:  # which TensorRT for RTX says of the workspace, too
        remedy = f"raise export.workspace_bytes, now {options.workspace_bytes}, or lower export.max_batch"
    return ExportError(f"{flavour.module} cannot build the engine: {reason or 'TensorRT gave no reason'}", remedy)
