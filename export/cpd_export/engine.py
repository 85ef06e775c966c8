"""The TensorRT builder: one adapter for every flavour of it, which differ by a module name and by what they can do.

Networks are strongly typed: the ONNX file says every precision, and the builder chooses nothing. Neither torch nor
onnx is needed here, so that a device can build its own engine.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import asdict, dataclass, replace
from typing import Any

from cpd.errors import CpdError, ExportError
from cpd.limits import MAX_BATCH, WORKSPACE_BYTES
from cpd.manifest import Precision
from cpd.tensorrt_log import keep_errors
from cpd_export.gpu import first_gpu


@dataclass(frozen=True, slots=True)
class Flavour:
    """One distribution of TensorRT and what it can do."""

    module: str
    package: str
    """What to pip install."""
    builds: bool
    """Whether it can make engines, not only run them."""
    needs_gpu: bool
    """Whether building measures kernels on the GPU of this machine."""
    compatible: bool
    """Whether it takes version_compatible and hardware_compatible."""
    targets: tuple[str, ...]
    """Compute capabilities that can be named as targets; none where engines are for the GPU they are built on."""
    default_targets: tuple[str, ...] = ()
    """What it builds for if no target is named; a + means later ones too."""
    half_targets: tuple[str, ...] = ()
    """Targets for which it can multiply matrices in fp16 alone."""


CURRENT = "current"
"""A target for flavours that have any: the GPU of this machine, also where it is not on the flavour's list."""
FLAVOURS = {
    flavour.module: flavour
    for flavour in (
        Flavour("tensorrt", "tensorrt", builds=True, needs_gpu=True, compatible=True, targets=()),
        Flavour(
            "tensorrt_rtx",
            "tensorrt_rtx_cu13",
            builds=True,
            needs_gpu=False,
            compatible=False,
            targets=("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"),
            default_targets=("8.0", "8.6", "8.9", "12.0+"),
            half_targets=("7.5",),
        ),
        Flavour("tensorrt_lean", "tensorrt_lean_cu13", builds=False, needs_gpu=True, compatible=False, targets=()),
    )
}
"""In the order in which ``choose_flavour`` tries them."""


HARDWARE_COMPATIBLE_FROM = 8
"""First compute capability (its major number: Ampere) that such engines can be built on and for."""


MOST = {"max_batch": MAX_BATCH, "workspace_bytes": WORKSPACE_BYTES}
COMPATIBLE = ("version_compatible", "hardware_compatible")


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How an engine is built."""

    max_batch: int = 8
    workspace_bytes: int = 1 << 30
    version_compatible: bool = False
    """Loads in later versions of TensorRT too; somewhat slower."""
    hardware_compatible: bool = False
    """Runs on every GPU from compute capability 8.0 on; somewhat slower."""
    compute_capabilities: tuple[str, ...] = ()
    """GPUs to build for; empty for the flavour's default."""

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(f"{name} must be at least 1 and at most {most}, got {value!r}")
        for name in COMPATIBLE:
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if len(set(self.compute_capabilities)) != len(self.compute_capabilities):
            raise ValueError(f"compute_capabilities must differ, got {', '.join(self.compute_capabilities)}")

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "compute_capabilities": list(self.compute_capabilities)}


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """A serialised engine and where it runs."""

    data: bytes
    flavour: str
    version: str
    target: str
    """GPU and compute capability it was built on, or the capabilities it was built for."""


def choose_flavour(options: BuildOptions, module: str | None = None, precision: Precision = "fp32") -> Flavour:
    """The flavour asked for, or the first that is installed, can build here and has the options.

    Args:
        options: how to build.
        module: a key of FLAVOURS, or None for any.
        precision: of the graph to build from.

    Raises:
        ExportError: none can, or none of those can do what the options ask; says why, of the first.
    """
    if module is not None and module not in FLAVOURS:
        raise ExportError(f"{module} is no TensorRT known here", f"choose one of {', '.join(FLAVOURS)}")
    candidates = [FLAVOURS[module]] if module else [flavour for flavour in FLAVOURS.values() if flavour.builds]
    obstacles = {flavour: obstacle(flavour) for flavour in candidates}
    usable = [flavour for flavour, reason in obstacles.items() if not reason]
    if not usable:
        raise ExportError(
            "no engine can be built here: " + "; ".join(obstacles.values()),
            f"pip install {FLAVOURS['tensorrt_rtx'].package}, which needs no GPU to build",
        )
    refusals = []
    for flavour in usable:
        try:
            check_options(flavour, options, precision)
        except ExportError as error:
            refusals.append(error)
        else:
            return flavour
    raise refusals[0]


def obstacle(flavour: Flavour) -> str:
    """Why a flavour cannot build on this machine; empty if it can. TensorRT itself is not touched to find out."""
    if not flavour.builds:
        return f"{flavour.module} runs engines and cannot build them"
    if importlib.util.find_spec(flavour.module) is None:
        return f"{flavour.module} is not installed"
    if flavour.needs_gpu and first_gpu() is None:
        return f"{flavour.module} builds on a GPU, and this machine has none that its driver can use"
    return ""


def check_options(flavour: Flavour, options: BuildOptions, precision: Precision = "fp32") -> None:
    """Refuses what a flavour cannot do before anything is built.

    Raises:
        ExportError: an option the flavour does not have, or not on this GPU, or not for this precision.
    """
    if not flavour.compatible and (options.version_compatible or options.hardware_compatible):
        named = "version_compatible" if options.version_compatible else "hardware_compatible"
        raise ExportError(
            f"{flavour.module} has no {named} engines",
            "leave it out: its engines run on every GPU from compute capability 8.0 on"
            if flavour.targets
            else "leave it out",
        )
    gpu = first_gpu() if flavour.needs_gpu and options.hardware_compatible else None
    if gpu is not None and int(gpu.capability.partition(".")[0]) < HARDWARE_COMPATIBLE_FROM:
        raise ExportError(
            f"{flavour.module} makes hardware_compatible engines on GPUs from compute capability "
            f"{HARDWARE_COMPATIBLE_FROM}.0 on, and this is {gpu.name} of {gpu.capability}",
            "leave it out, or build on another GPU",
        )
    known = (*flavour.targets, CURRENT) if flavour.targets else ()
    unknown = [target for target in options.compute_capabilities if target not in known]
    if unknown:
        listed = f"choose from {', '.join(known)}"
        raise ExportError(
            f"{flavour.module} cannot be told to build for compute capability {unknown[0]}",
            listed if known else "it builds for the GPU of this machine; leave the targets out",
        )
    mixed = len(options.compute_capabilities) > 1
    if CURRENT in options.compute_capabilities and (mixed or first_gpu() is None):
        when = "alone, not for others too" if mixed else "where there is a GPU that the driver can use"
        raise ExportError(
            f"{flavour.module} builds for {CURRENT} {when}", f"name those to build for: {', '.join(flavour.targets)}"
        )
    half = [target for target in options.compute_capabilities if target in flavour.half_targets]
    if half and precision != "fp16":
        raise ExportError(
            f"{flavour.module} has no {precision} engines for compute capability {half[0]}, which it serves fp16 alone",
            f"leave {half[0]} out, or use the engine of the fp16 model",
        )


def for_this_machine(flavour: Flavour, options: BuildOptions) -> BuildOptions:
    """The options as far as the flavour has them here, for the GPU of this machine where there is one."""
    for name in COMPATIBLE:
        try:
            check_options(flavour, BuildOptions(**{name: getattr(options, name)}))
        except ExportError:
            options = BuildOptions(**{**asdict(options), name: False})
    return replace(options, compute_capabilities=(CURRENT,) if flavour.targets and first_gpu() is not None else ())


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
