"""The typed pipeline.yaml. Defaults live here alone; ``cpd.config_file`` reads a file into these types.

The descriptions are what an editor shows beside a key (``cpd-pipeline schema``), so each says what a value does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from cpd.config.clips import Augment, ClipSection, Data, Rendered
from cpd.config.product import Export, Gates, Validate
from cpd.config.section import Mistake, Section
from cpd.config.training import Distill, Model, Spectrum

__all__ = [
    "Augment", "ClipSection", "Data", "Distill", "Export", "Gates", "Model", "Pipeline", "Rendered", "Spectrum",
    "Validate",
]  # fmt: skip

NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
MOST_BATCH_GB = 16
"""Of the pixels of a training batch; what a network makes of them takes many times as much."""


def _checked_name(name: str) -> str:
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(
            "must start with a letter or digit and hold only letters, digits, '.', '_', '-', 100 at most, "
            f"got {name[:120]!r}"
        )
    return name


Name = Annotated[str, AfterValidator(_checked_name), Field(json_schema_extra={"pattern": NAME_PATTERN})]


class Pipeline(Section):
    """A whole pipeline.yaml."""

    name: Name = Field(description="What this run is called; names its folder.")
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = Field(
        0, description="Of every random choice; two CPU runs then agree."
    )
    output: Path | None = Field(None, description="Run folder, relative to the current folder; default runs/<name>.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to train and measure; auto takes a GPU.")
    precision: Literal["auto", "fp32", "bf16", "fp16", "fastest"] = Field(
        "auto",
        description="Arithmetic of the networks in training: auto is bf16 on a GPU (fp16, its losses scaled, on one "
        "older than compute capability 8.0, which has no bf16) and fp32 on a CPU; fastest is bf16 on a CPU too if it "
        "has instructions for it (AVX512-BF16, AMX), which is faster for large networks.",
    )
    data: Data
    clip: ClipSection = Field(ClipSection(), description="What both models see of a video.")
    augment: Augment = Field(Augment(), description="How training clips are varied.")
    teacher: Model = Field(description="The large network to learn from.")
    student: Model = Field(description="The small network to ship.")
    distill: Distill = Field(Distill(), description="How the student learns from the teacher.")
    export: Export = Field(Export(), description="What is made of the trained models.")
    validate_: Validate = Field(Validate(), alias="validate", description="How the verdict is reached.")

    def mistakes(self) -> Iterator[Mistake]:
        spectrum, start = self.distill.spectrum, self.distill.parameters.start
        if self.student.causal and self.clip.normalise == "clip":
            yield (
                ("student.causal", "clip.normalise"),
                "student.causal runs frame by frame, which clip.normalise: clip does not allow",
            )
        if self.clip.frames == 1 and spectrum.weight > 0 and not spectrum.dc:
            yield (
                ("distill.spectrum.dc", "distill.spectrum.weight", "clip.frames"),
                "distill.spectrum.dc: false leaves nothing of a clip of one frame",
            )
        bins = self.clip.frames // 2 + spectrum.dc
        if spectrum.bin_weights is not None and bins and len(spectrum.bin_weights) != bins:
            yield (
                ("distill.spectrum.bin_weights", "distill.spectrum.dc", "clip.frames"),
                f"distill.spectrum.bin_weights must be a list of {bins}, one for each temporal frequency of "
                f"clip.frames: {self.clip.frames}{'' if spectrum.dc else ' without dc'}, got "
                f"{len(spectrum.bin_weights)}",
            )
        if self.student.checkpoint is not None and start in ("energy", "teacher", "fitted"):
            yield (
                ("distill.parameters.start", "student.checkpoint"),
                f"distill.parameters.start: {start} would undo student.checkpoint: use one of them",
            )
        if self.student.epochs == 0:
            yield ("student.epochs",), "student.epochs must be 1 at least, or nothing would be distilled"
        if self.student.generations != 1:
            yield ("student.generations",), "student.generations must be 1: only the teacher has no teacher"
        if self.student.label_smoothing:
            yield (
                ("student.label_smoothing",),
                "student.label_smoothing must be 0: a student's labels are softened by its teacher",
            )
        for role, model in (("teacher", self.teacher), ("student", self.student)):
            batch_gb = model.batch_size * self.clip.frames * self.clip.crop[0] * self.clip.crop[1] * 3 / 1e9
            if batch_gb > MOST_BATCH_GB:
                yield (
                    (f"{role}.batch_size", "clip.crop", "clip.frames"),
                    f"{role}.batch_size: {model.batch_size} clips of clip.frames and clip.crop take {batch_gb:.0f} GB, "
                    f"more than {MOST_BATCH_GB}",
                )
        if self.data.folder is not None:
            home = self.output or Path("runs", getattr(self, "name", ""))  # its mistakes are told elsewhere
            inside = os.path.relpath(home, self.data.folder)
            if inside == "." or not inside.startswith("."):
                yield (
                    ("output", "data.folder"),
                    f"the run folder {home} lies in data.folder, where it would be taken for a class: name another "
                    "output, or put the clips into a folder of their own",
                )
        if self.teacher.epochs == 0 and self.teacher.checkpoint is None:
            yield ("teacher.epochs", "teacher.checkpoint"), "teacher: training for 0 epochs needs a checkpoint"
        if self.teacher.generations != 1 and self.teacher.epochs == 0:
            yield (
                ("teacher.generations", "teacher.epochs"),
                "teacher.generations must be 1 where teacher.epochs is 0, since nothing is trained",
            )

    @property
    def run_dir(self) -> Path:
        """The run folder, relative to the current folder."""
        return self.output or Path("runs") / self.name
