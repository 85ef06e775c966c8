"""Which TensorRT there is, and whether it can build here what is asked of it; none of them is touched to find out."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass, replace
from typing import Any

from cpd.errors import ExportError
from cpd.limits import MAX_BATCH, WORKSPACE_BYTES
from cpd.manifest import Precision
from cpd_export.gpu import first_gpu


@dataclass(frozen=True, slots=True)
class Flavour:
    """One distribution of TensorRT and what it can do."""

    module: str
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
        Flavour("tensorrt", builds=True, needs_gpu=True, compatible=True, targets=()),
        Flavour(
            "tensorrt_rtx",
            builds=True,
            needs_gpu=False,
            compatible=False,
            targets=("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"),
            default_targets=("8.0", "8.6", "8.9", "12.0+"),
            half_targets=("7.5",),
        ),
        Flavour("tensorrt_lean", builds=False, needs_gpu=True, compatible=False, targets=()),
    )
}
"""In the order in which ``choose_flavour`` tries them."""
HARDWARE_COMPATIBLE_FROM = 8
"""First compute capability (its major number: Ampere) that hardware_compatible engines can be built on and for."""
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
            "pip install tensorrt_rtx_cu13, which needs no GPU to build",
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
