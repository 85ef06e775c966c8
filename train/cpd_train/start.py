"""Where the student's parameters start: the teacher's distribution as a prior, which costs no step anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from cpd.errors import TrainingError
from cpd_train.fitted import fit_to_teacher
from cpd_train.losses.parameters import energy_shares, kernel_coefficients, with_energy_shares
from cpd_train.models import VideoClassifier, evenly_chosen
from cpd_train.terms import spatial_kernels

Frames = Callable[[], Tensor]
"""Gives clips of the training, (clips, frames, height, width, 3) uint8, where a start needs to see some."""


def begin(start: str, student: VideoClassifier, teacher: VideoClassifier, frames: Frames, *, loaded: bool) -> str:
    """Gives the student its first parameters; returns how, as a name of ``START``.

    Args:
        start: a name of ``START``; or auto, fitted to the teacher where nothing was loaded.
        loaded: whether the student has the parameters of a checkpoint.

    Raises:
        TrainingError: the networks do not fit what was asked for.
    """
    if start == "auto":
        start = "random" if loaded else "fitted"
    START[start](student, teacher, frames)
    return start


def told(start: str, *, loaded: bool) -> str:
    """In a few words, where the student's parameters came from."""
    return {
        "random": "from its checkpoint" if loaded else "at random",
        "energy": "with the teacher's energy at each frequency",
        "teacher": "from the teacher's kernels",
        "fitted": "fitted to the teacher's answers",
    }[start]


@torch.no_grad()
def with_teachers_energy(student: VideoClassifier, teacher: VideoClassifier) -> None:
    """Gives each stage's kernels the teacher's share of energy at each DCT frequency; their sizes may differ in number.

    Stages without spatial kernels in either model stay as they are.

    Raises:
        TrainingError: kernels of a stage differ in size.
    """
    for ours, theirs in zip(spatial_kernels(student), spatial_kernels(teacher), strict=True):
        if ours and theirs:
            if ours[0].shape[-1] != theirs[0].shape[-1]:
                raise TrainingError(
                    f"kernels of {ours[0].shape[-1]} and {theirs[0].shape[-1]} have no common frequencies",
                    "set distill.parameters.start: random",
                )
            shares = energy_shares(kernel_coefficients(theirs))
            for kernel, shaped in zip(ours, with_energy_shares(ours, shares), strict=True):
                kernel.copy_(shaped)


@torch.no_grad()
def sampled_from_teacher(student: VideoClassifier, teacher: VideoClassifier) -> None:
    """Starts the student from every so many channels of the teacher's first blocks (arXiv 2311.18823).

    The kernels are then a sample of the teacher's, so their coefficients are distributed over filters as the teacher's
    at every frequency. Channels are taken evenly, so that shifted ones come from shifted ones, and alike in all layers,
    so that a kernel meets the inputs it was made for.

    Raises:
        TrainingError: the networks are of two families.
    """
    alone = without_counterpart(student, teacher)
    if alone:
        raise TrainingError(
            f"the student's {alone} has no counterpart in the teacher, a {teacher.spec.model}",
            "set distill.parameters.start: fitted",
        )
    theirs = teacher.backbone.state_dict()
    for name, ours in student.backbone.state_dict().items():
        ours.copy_(evenly_chosen(theirs[name], ours.shape))


def fitted_to_teacher(student: VideoClassifier, teacher: VideoClassifier, frames: Frames) -> None:
    """Starts a student with what comes nearest to the teacher's answers; one of its own architecture is the teacher.

    Of one family, it is a sample of the teacher first, so that each layer has a counterpart to be fitted to.
    """
    sampled = corresponds(student, teacher)
    if sampled:
        sampled_from_teacher(student, teacher)
    ours, its = (replace(network.spec, dropout=0.0) for network in (student, teacher))
    if ours != its:
        fit_to_teacher(student, teacher, frames(), sampled=sampled)


def corresponds(student: VideoClassifier, teacher: VideoClassifier) -> bool:
    """Whether each channel of the student can stand for one of the teacher's: one family, no wider and no deeper."""
    return not without_counterpart(student, teacher)


def without_counterpart(student: VideoClassifier, teacher: VideoClassifier) -> str:
    """The first parameter of the student that cannot be a sample of one of the teacher's; empty where all can."""
    theirs = teacher.backbone.state_dict()
    for name, ours in student.backbone.state_dict().items():
        its = theirs.get(name, torch.empty(()))
        alike = its.dim() == ours.dim() and its.shape[2:] == ours.shape[2:]
        if not alike or any(its.shape[dim] < ours.shape[dim] for dim in range(ours.dim())):
            return str(name)
    return ""


START: dict[str, Callable[[VideoClassifier, VideoClassifier, Frames], None]] = {
    "random": lambda *_: None,
    "energy": lambda student, teacher, _: with_teachers_energy(student, teacher),
    "teacher": lambda student, teacher, _: sampled_from_teacher(student, teacher),
    "fitted": fitted_to_teacher,
}
