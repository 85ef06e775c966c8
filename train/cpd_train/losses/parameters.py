"""Parameter distribution distillation: the student's kernels shall have the teacher's frequency distribution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from cpd.errors import TrainingError

EPSILON = 1e-8


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
    """
    size = kernels[0].shape[-1]
    transform = dct_matrix(size).to(kernels[0])
    return torch.cat([(transform @ kernel @ transform.T).reshape(-1, size * size) for kernel in kernels])


def energy_shares(coefficients: Tensor) -> Tensor:
    """(filters, frequencies) -> (frequencies,): the share of all energy at each frequency; they sum to 1."""
    energy = coefficients.square().sum(0) + EPSILON
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
    steps = (torch.arange(count, dtype=coefficients.dtype, device=coefficients.device) + 0.5) / count
    scale = (coefficients.square().mean() + EPSILON**2).sqrt()
    return torch.quantile(coefficients / scale, steps, dim=0)


def energy_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher's energy shares || student's), a scalar; 0 where kernels share energy over frequencies alike."""
    ours, theirs = energy_shares(student), energy_shares(teacher)
    return (theirs * (theirs / ours).log()).sum()


def quantile_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared 1-D Wasserstein-2 distance of the coefficients' distributions, averaged over frequencies; a scalar."""
    return (coefficient_quantiles(student) - coefficient_quantiles(teacher)).square().mean()


PARAMETER_FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "energy": energy_divergence,
    "quantiles": quantile_distance,
}


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
        TrainingError: no stage can be compared, or the kernels of a stage differ in size.
    """
    if len(student) != len(teacher):
        raise TrainingError(f"the student has {len(student)} stages and the teacher {len(teacher)}")
    terms = []
    for ours, theirs in zip(student, teacher, strict=True):
        if ours and theirs:
            if ours[0].shape[-1] != theirs[0].shape[-1]:
                raise TrainingError(
                    f"kernels of {ours[0].shape[-1]} and {theirs[0].shape[-1]} have no common frequencies",
                    "set distill.parameters.weight: 0",
                )
            terms.append(PARAMETER_FORMS[form](kernel_coefficients(ours), kernel_coefficients(theirs)))
    if not terms:
        raise TrainingError("no stage has spatial kernels in both models", "set distill.parameters.weight: 0")
    return torch.stack(terms).mean()
