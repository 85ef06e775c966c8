"""Parameter distribution distillation: the student's kernels shall have the teacher's frequency distribution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from cpd.errors import TrainingError
from cpd_train.losses.inputs import EPSILON, as_float

SWITCH_OFF = "set distill.parameters.weight: 0"


@lru_cache
def dct_matrix(size: int) -> Tensor:
    """The orthonormal DCT-II, (size, size) float64: row u holds c_u cos(π (2x + 1) u / 2 size), c_0 = √(1/size),
    else √(2/size)."""
    positions = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi * (2 * positions + 1) * positions[:, None] / (2 * size)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def kernel_coefficients(kernels: Sequence[Tensor]) -> Tensor:
    """DCT-II coefficients of all spatial kernels of a stage.

    Args:
        kernels: weights (outputs, inputs per group, k, k), k > 1 and the same for all; depthwise ones have one input.

    Returns:
        (filters, k * k): one row for each k x k slice, one column for each two-dimensional frequency, row-major.

    Raises:
        TrainingError: kernels differ in size, or are not square.
    """
    sizes = {tuple(kernel.shape[-2:]) for kernel in kernels}
    if len({side for size in sizes for side in size}) > 1:
        raise _no_common_frequencies(*(str(high) if high == wide else f"{high}x{wide}" for high, wide in sorted(sizes)))
    size = kernels[0].shape[-1]
    kernels = [as_float(kernel) for kernel in kernels]
    transform = dct_matrix(size).to(kernels[0])
    return torch.cat([(transform @ kernel @ transform.T).reshape(-1, size * size) for kernel in kernels])


def energy_shares(coefficients: Tensor) -> Tensor:
    """(filters, frequencies) -> (frequencies,): the share of all energy at each frequency; they sum to 1."""
    energy = as_float(coefficients).square().sum(0) + EPSILON
    return energy / energy.sum()


def with_energy_shares(kernels: Sequence[Tensor], shares: Tensor) -> list[Tensor]:
    """Kernels whose energy lies at the frequencies as ``shares`` says, and is as large as it was in all.

    Each coefficient is scaled by √(wanted share / share had) of its frequency, so filters keep their differences.

    Args:
        kernels: of one stage, as for ``kernel_coefficients``.
        shares: (k * k,), sum 1.
    """
    size = kernels[0].shape[-1]
    transform = dct_matrix(size).to(kernels[0])
    gains = (shares / energy_shares(kernel_coefficients(kernels))).sqrt().reshape(size, size)
    return [transform.T @ (gains * (transform @ kernel @ transform.T)) @ transform for kernel in kernels]


def coefficient_quantiles(coefficients: Tensor, count: int = 32) -> Tensor:
    """(filters, frequencies) -> (count, frequencies): how the coefficients spread over the filters.

    Quantiles at the middles of ``count`` equal steps, in units of the stage's root mean square, so that only the shape
    of the distribution counts.
    """
    coefficients = as_float(coefficients)
    steps = (torch.arange(count, dtype=coefficients.dtype, device=coefficients.device) + 0.5) / count
    scale = (coefficients.square().mean() + EPSILON**2).sqrt()
    return torch.quantile(coefficients / scale, steps, dim=0)


def energy_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher's energy shares || student's), a scalar; 0 where kernels share energy over frequencies alike.

    student, teacher: (frequencies,), as ``energy_shares`` gives them.
    """
    return (teacher * (teacher / student).log()).sum()


def quantile_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared 1-D Wasserstein-2 distance of the coefficients' distributions, averaged over frequencies; a scalar.

    student, teacher: (count, frequencies), as ``coefficient_quantiles`` gives them.
    """
    return (student - teacher).square().mean()


class ParameterForm(NamedTuple):
    """A reading of "frequency distribution of the parameters"."""

    describe: Callable[[Tensor], Tensor]
    """(filters, frequencies) -> (..., frequencies): the distribution of a stage's coefficients."""
    distance: Callable[[Tensor, Tensor], Tensor]
    """Of the student's distribution and the teacher's, a scalar."""


PARAMETER_FORMS = {
    "energy": ParameterForm(energy_shares, energy_divergence),
    "quantiles": ParameterForm(coefficient_quantiles, quantile_distance),
}


def kernel_distributions(stages: Sequence[Sequence[Tensor]], form: str) -> list[Tensor | None]:
    """How the kernels of each stage are distributed over frequencies; None where a stage has none.

    Args:
        stages: for each its spatial kernels.
        form: as for ``parameter_distillation``.

    Raises:
        TrainingError: the kernels of a stage differ in size, or are not square.
    """
    describe = PARAMETER_FORMS[form].describe
    return [describe(kernel_coefficients(kernels)) if kernels else None for kernels in stages]


def distribution_distance(student: Sequence[Tensor | None], teacher: Sequence[Tensor | None], form: str) -> Tensor:
    """The loss of ``parameter_distillation`` from what ``kernel_distributions`` says of both.

    So the teacher's side, which stays the same and is the larger, needs to be described only once.

    Raises:
        TrainingError: no stage can be compared, or the kernels of one differ in size.
    """
    if len(student) != len(teacher):
        raise TrainingError(f"the student has {len(student)} stages and the teacher {len(teacher)}")
    terms = []
    for ours, theirs in zip(student, teacher, strict=True):
        if ours is not None and theirs is not None:
            if ours.shape[-1] != theirs.shape[-1]:
                raise _no_common_frequencies(*(str(math.isqrt(side.shape[-1])) for side in (ours, theirs)))
            terms.append(PARAMETER_FORMS[form].distance(ours, theirs))
    if not terms:
        raise TrainingError("no stage has spatial kernels in both models", SWITCH_OFF)
    return torch.stack(terms).mean()


def parameter_distillation(
    student: Sequence[Sequence[Tensor]], teacher: Sequence[Sequence[Tensor]], form: str
) -> Tensor:
    """Parameter distribution distillation: the student's kernels shall have the teacher's frequency distribution.

    Args:
        student, teacher: for each stage its spatial kernels; stages in which either has none are passed over.
        form: energy, the share of energy at each frequency; or quantiles, how coefficients spread at each.

    Returns:
        A scalar, averaged over the stages compared.

    Raises:
        TrainingError: no stage can be compared, or the kernels of a stage differ in size, or are not square.
    """
    return distribution_distance(kernel_distributions(student, form), kernel_distributions(teacher, form), form)


def _no_common_frequencies(*sizes: str) -> TrainingError:
    return TrainingError(f"kernels of {' and '.join(sizes)} have no common frequencies", SWITCH_OFF)
