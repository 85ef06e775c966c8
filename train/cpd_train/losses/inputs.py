"""What the losses ask of their inputs, told before anything is computed from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cpd.errors import TrainingError

EPSILON = 1e-8


def as_float(values: Tensor) -> Tensor:
    """In float32, since half precision holds neither the squares nor the offsets of the losses; float64 stays."""
    return values if values.dtype == torch.float64 else values.float()


def least(values: Tensor) -> float:
    """The length from which on values in their type are brought to unit length, whose gradient is its inverse.

    ``EPSILON``, or where that gradient would be beyond the type the smallest number it holds in full: 6e-5 in float16.
    """
    return max(EPSILON, torch.finfo(values.dtype).tiny)


def check_alike(student: Tensor, teacher: Tensor, names: Sequence[str]) -> None:
    """Refuses tensors that would be broadcast, or compared by what does not correspond.

    Args:
        student, teacher: to be compared.
        names: of the first dimensions of both, which must agree.

    Raises:
        TrainingError: another number of dimensions, or of something that is named.
    """
    if student.dim() != teacher.dim():
        raise TrainingError(
            f"the student's values are of shape {tuple(student.shape)} and the teacher's of {tuple(teacher.shape)}"
        )
    for name, our, their in zip(names, student.shape, teacher.shape, strict=False):
        if our != their:
            raise TrainingError(f"the student has {our} {name} and the teacher {their}")
