"""The terms of a distillation loss by name: what each compares, and nothing of how they are weighed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpd.config import Distill
from cpd.errors import TrainingError
from cpd_train.answers import Answer, Spectra
from cpd_train.losses import rivals
from cpd_train.losses.parameters import distribution_distance, kernel_distributions
from cpd_train.losses.spectrum import attention_maps, grid_of, smaller, spectrum_distillation, squared_distance
from cpd_train.models import Features, VideoClassifier


@dataclass
class Scene:
    """One batch as the terms see it."""

    ours: Features
    ask: Callable[[], Answer]
    """The teacher, who is asked once, and only if a term needs to know."""
    labels: Tensor
    """(batch, labels): how much of each class there is."""
    fixed: Fixed
    """What stays the same from batch to batch."""

    @cached_property
    def theirs(self) -> Answer:
        """The teacher's answer, for which it is asked at the first use."""
        return self.ask()

    @cached_property
    def our_maps(self) -> list[Tensor]:
        """Attention maps of each stage, (batch, frames, height, width) float."""
        return [attention_maps(stage) for stage in self.ours.stages]

    @property
    def our_signals(self) -> list[Tensor]:
        """What the spectrum is of."""
        match self.fixed.spectra.align:
            case "attention":
                return self.our_maps
            case "adapter":
                return self.our_adapted
            case _:
                return self.ours.stages

    @cached_property
    def our_adapted(self) -> list[Tensor]:
        """Each stage in the teacher's channels, (batch, frames, channels, height, width) float."""
        return [
            adapter(stage.float().flatten(0, 1)).reshape(*stage.shape[:2], -1, *stage.shape[3:])
            for adapter, stage in zip(self.fixed.adapters, self.ours.stages, strict=True)
        ]


class Fixed:
    """The settings, the student's kernels, what the teacher's are like, and adapters if a term learns through them."""

    def __init__(self, student: VideoClassifier, teacher: VideoClassifier, distill: Distill, names: list[str]) -> None:
        self.distill = distill
        self.student_kernels = spatial_kernels(student)
        self.teacher_distributions: list[Tensor | None] = []
        if "parameters" in names:
            with torch.no_grad():
                self.teacher_distributions = kernel_distributions(spatial_kernels(teacher), distill.parameters.form)
        self.grids, ours = stage_shapes(student)
        their_grids, theirs = stage_shapes(teacher)
        if len(ours) != len(theirs):
            raise TrainingError(f"the student has {len(ours)} stages and the teacher {len(theirs)}")
        settings = distill.spectrum
        grids, channels = self.grids, theirs
        if settings.align == "channels":  # a quarter of the cost
            grids, channels = [half(grid) for grid in grids], ours
        self.spectra = Spectra(
            tuple(smaller(*pair) for pair in zip(grids, their_grids, strict=True)),
            "attention" if settings.align == "auto" else settings.align,
            tuple(channels),
            settings.form,
            settings.dc,
            settings.over,
            settings.scale,
            settings.bin_weights,
        )
        self.adapters: list[nn.Conv2d] = []
        if "fitnet" in names or ("spectrum" in names and settings.align == "adapter"):
            self.adapters = [
                nn.Conv2d(our, their, 1).to(student.mean.device) for our, their in zip(ours, theirs, strict=True)
            ]


def _spectrum(scene: Scene) -> Tensor:
    ours = scene.fixed.spectra(scene.our_signals)
    distances = [squared_distance(*pair) for pair in zip(ours, scene.theirs.spectra, strict=True)]
    return torch.stack(distances).sum(0)


def _evidence(scene: Scene) -> Tensor:
    ours, theirs = scene.ours.frame_logits.float(), scene.theirs.frame_logits
    # softmax knows no common offset of the classes, so neither does their evidence
    ours, theirs = ((logits - logits.mean(2, keepdim=True))[..., None, None] for logits in (ours, theirs))
    return spectrum_distillation([ours], [theirs], form="complex", scale=scene.fixed.distill.spectrum.scale)


def _parameters(scene: Scene) -> Tensor:
    form = scene.fixed.distill.parameters.form
    ours = kernel_distributions(scene.fixed.student_kernels, form)
    return distribution_distance(ours, scene.fixed.teacher_distributions, form)


class Term(NamedTuple):
    """A part of the loss."""

    loss: Callable[[Scene], Tensor]
    """One value for each clip, (batch,), or a scalar where it is none of clips."""
    asks: str = ""
    """What it needs of the teacher's ``Answer`` beside logits and embedding: maps, features or spectra."""


TERMS = {
    "cross_entropy": Term(lambda scene: F.cross_entropy(scene.ours.logits.float(), scene.labels, reduction="none")),
    "logits": Term(
        lambda scene: rivals.logit_distillation(
            scene.ours.logits.float(), scene.theirs.logits.float(), scene.fixed.distill.temperature
        )
    ),
    "spectrum": Term(_spectrum, "spectra"),
    "evidence": Term(_evidence),
    "parameters": Term(_parameters),
    "attention": Term(lambda scene: rivals.attention_transfer(scene.our_maps, scene.theirs.maps), "maps"),
    "fitnet": Term(lambda scene: rivals.fitnet(scene.our_adapted, scene.theirs.features), "features"),
    "dist": Term(
        lambda scene: rivals.dist(
            scene.ours.logits.float(), scene.theirs.logits.float(), scene.fixed.distill.temperature
        )
    ),
    "relational": Term(
        lambda scene: rivals.relational(scene.ours.stages[-1].float().mean((1, 3, 4)), scene.theirs.embedding)
    ),
    "spatial_spectrum": Term(lambda scene: rivals.spatial_spectrum(scene.our_maps, scene.theirs.maps), "maps"),
}


def spatial_kernels(model: VideoClassifier) -> list[list[Tensor]]:
    """For each stage the weights of its convolutions that look at more than one pixel."""
    return [
        [module.weight for module in stage.modules() if isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1]
        for stage in model.backbone.stage_modules
    ]


def stage_shapes(model: VideoClassifier) -> tuple[list[tuple[int, int]], list[int]]:
    """For each stage the (height, width) of its features, and its channels."""
    frames = torch.zeros((1, *model.clip.shape), dtype=torch.uint8, device=model.mean.device)
    was_training = model.training
    with torch.no_grad():
        stages = model.eval().with_features(frames).stages
    model.train(was_training)
    return [grid_of(stage) for stage in stages], [stage.shape[2] for stage in stages]


def half(grid: tuple[int, int]) -> tuple[int, int]:
    """Half of (height, width), rounded up."""
    return (grid[0] + 1) // 2, (grid[1] + 1) // 2
