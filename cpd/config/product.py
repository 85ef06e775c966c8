"""Sections of a pipeline.yaml that say what is made of the student, and what it must reach."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from cpd.config.section import Count, Fraction, Mistake, NonNegative, Positive, Section
from cpd.limits import MAX_BATCH, NEWEST_OPSET, OLDEST_OPSET, WORKSPACE_BYTES


class Export(Section):
    """What is made of the trained models."""

    opset: Annotated[int, Field(ge=OLDEST_OPSET, le=NEWEST_OPSET)] = Field(
        18, description="ONNX operator set of the exported graphs; TensorRT 10 reads up to 20, TensorRT 11 up to 25."
    )
    precisions: tuple[Literal["fp32", "fp16", "int8"], ...] = Field(
        ("fp32", "fp16", "int8"), description="Student graphs to make; fp32 is the one the others are made from."
    )
    calibration_clips: Count = Field(64, description="Training clips that show int8 which values occur.")
    engine: bool = Field(True, description="Build .trt files with tensorrt, or else tensorrt_rtx, where installed.")
    max_batch: Annotated[int, Field(ge=1, le=MAX_BATCH)] = Field(8, description="Largest batch an engine accepts.")
    workspace_bytes: Annotated[int, Field(ge=1, le=WORKSPACE_BYTES)] = Field(
        1 << 30, description="Scratch memory an engine may use."
    )
    version_compatible: bool = Field(False, description="Engines load in later TensorRT versions too (tensorrt).")
    hardware_compatible: bool = Field(False, description="Engines run on GPUs from Ampere on (tensorrt).")
    compute_capabilities: tuple[Annotated[str, Field(pattern=r"^(\d+\.\d|current)$")], ...] = Field(
        (),
        description="GPUs that engines are built for, such as '8.9', or 'current' for the one here (tensorrt_rtx); "
        "default: all it knows from 8.0 on.",
    )

    def mistakes(self) -> Iterator[Mistake]:
        if "fp32" not in self.precisions:
            yield ("precisions",), "precisions must name fp32, since the others are made from it"
        for key in ("precisions", "compute_capabilities"):
            if len(set(getattr(self, key))) != len(getattr(self, key)):
                yield (key,), f"{key} must differ"


class Gates(Section):
    """What the student must reach; a gate left out is not checked. Each is decided with its confidence interval."""

    top1_min: Fraction | None = Field(None, description="Student's top-1 on the test clips.")
    top1_retained_min: NonNegative | None = Field(None, description="Student's top-1 over teacher's top-1.")
    agreement_min: Fraction | None = Field(None, description="Share of clips where student and teacher agree.")
    logit_difference_max: Positive | None = Field(1e-4, description="Largest torch to ONNX difference (fp32).")
    speedup_min: Positive | None = Field(None, description="Teacher's median latency over the student's, same runtime.")
    latency_p50_ms_max: Positive | None = Field(None, description="Student's median latency for one clip.")
    latency_p99_ms_max: Positive | None = Field(None, description="Student's 99th percentile latency for one clip.")


class Validate(Section):
    """How the verdict is reached."""

    latency_runs: Count = Field(200, description="Timed runs of each engine, in turns, after warm-up.")
    gates: Gates = Field(Gates(), description="What the verdict asks of the student.")
