"""The losses of collaborative distillation, as pure functions.

Features of a stage are (batch, frames, channels, height, width). Every loss of features or logits returns one value per
clip, (batch,), so that clips can be weighted; the loss of parameters returns one value.

arXiv 2009.06902 states the idea in its abstract; its equations were not at hand, so those below are ours, and each
choice is measured in docs/method.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from cpd.errors import TrainingError

EPSILON = 1e-8


def logit_distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Hinton's KD (arXiv 1503.02531): T² KL(softmax(teacher / T) || softmax(student / T)).

    Args:
        student, teacher: logits, (batch, classes).
        temperature: softens both; T² keeps the gradient's size.

    Returns:
        (batch,), at least 0, and 0 where both distributions are the same.
    """
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1) * temperature**2


# ---- feature spectrum


def attention_maps(features: Tensor) -> Tensor:
    """(batch, frames, channels, height, width) -> (batch, frames, height, width): mean of squares over channels.

    Needs nothing learned, and gives student and teacher one shape whatever their widths (arXiv 1612.03928).
    """
    return features.square().mean(2)


def pool_to(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Averages the last two dimensions to (height, width)."""
    if maps.shape[-2:] == torch.Size(size):
        return maps
    pooled = F.adaptive_avg_pool2d(maps.flatten(0, -3), size)
    return pooled.reshape(*maps.shape[:-2], *size)


def temporal_spectrum(signal: Tensor, form: str = "amplitude", dc: bool = True) -> Tensor:
    """The spectrum of each position's course over time.

    With the orthonormal transform, and every bin but DC (and Nyquist, for an even number of frames) scaled by √2 for
    the mirrored half that ``rfft`` leaves out, the energy of the spectrum is that of the signal (Parseval). A constant
    offset reaches the DC bin alone; a circular shift in time changes phases, so not the amplitudes.

    Args:
        signal: (batch, frames, ...) real; any number of frames.
        form: amplitude |X|; log-amplitude log(1 + |X|), which lifts weak bins; or complex, the real and imaginary
            parts, so that phase counts.
        dc: whether the zero-frequency bin is kept.

    Returns:
        (batch, bins, ...) with bins = frames // 2 + 1, one less without DC; complex has a trailing dimension of 2.
    """
    frames = signal.shape[1]
    spectrum = torch.fft.rfft(signal.float() if signal.dtype != torch.float64 else signal, dim=1, norm="ortho")
    mirrored = torch.full((spectrum.shape[1],), math.sqrt(2), dtype=signal.dtype, device=signal.device)
    mirrored[0] = 1
    if frames % 2 == 0:
        mirrored[-1] = 1
    spectrum = spectrum * mirrored.view(1, -1, *[1] * (signal.dim() - 2))
    if not dc:
        spectrum = spectrum[:, 1:]
    return _FORMS[form](spectrum)


def _amplitude(spectrum: Tensor) -> Tensor:
    # |z| has no gradient at 0; the offset gives it one and moves the value by at most 1e-6
    tiny = 1e-12
    return (spectrum.real.square() + spectrum.imag.square() + tiny).sqrt() - math.sqrt(tiny)


_FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "amplitude": _amplitude,
    "log-amplitude": lambda spectrum: torch.log1p(_amplitude(spectrum)),
    "complex": torch.view_as_real,
}


def spectrum_distillation(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    form: str = "amplitude",
    dc: bool = True,
    bin_weights: Tensor | None = None,
) -> Tensor:
    """Feature spectrum distillation: the student's features shall have the teacher's temporal frequency spectrum.

    For each stage, both signals are brought to the smaller of their grids, transformed along time, and scaled to unit
    length per clip, so that the loss compares the shape of a spectrum and not its loudness::

        L = Σ_stages ‖ a / ‖a‖ − b / ‖b‖ ‖²,  a, b = spectrum(student), spectrum(teacher)

    which lies in 0..4 a stage (0..2 for amplitudes).

    Args:
        student, teacher: for each stage a signal (batch, frames, height, width) or, from an adapter,
            (batch, frames, channels, height, width) of equal channels.
        form, dc: see ``temporal_spectrum``.
        bin_weights: (bins,) factors on the spectra before they are scaled; None for ones.

    Returns:
        (batch,), 0 for identical signals.

    Raises:
        TrainingError: another number of stages or frames.
    """
    if len(student) != len(teacher):
        raise TrainingError(f"the student has {len(student)} stages and the teacher {len(teacher)}")
    total = torch.zeros(student[0].shape[0], dtype=student[0].dtype, device=student[0].device)
    for ours, theirs in zip(student, teacher, strict=True):
        if ours.shape[1] != theirs.shape[1]:
            raise TrainingError(f"the student sees {ours.shape[1]} frames and the teacher {theirs.shape[1]}")
        total = total + _unit_distance(
            *(_weighted(temporal_spectrum(x, form, dc), bin_weights) for x in to_one_grid(ours, theirs))
        )
    return total


def attention_transfer(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Attention transfer (arXiv 1612.03928) over space and time: as ``spectrum_distillation``, without the transform.

    Args and returns: as there, for attention maps (batch, frames, height, width).
    """
    distances = [_unit_distance(*to_one_grid(ours, theirs)) for ours, theirs in zip(student, teacher, strict=True)]
    return torch.stack(distances).sum(0)


def to_one_grid(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Both signals averaged to the smaller of their (height, width)."""
    size = (min(ours.shape[-2], theirs.shape[-2]), min(ours.shape[-1], theirs.shape[-1]))
    return pool_to(ours, size), pool_to(theirs, size)


def _weighted(spectrum: Tensor, bin_weights: Tensor | None) -> Tensor:
    return spectrum if bin_weights is None else spectrum * bin_weights.view(1, -1, *[1] * (spectrum.dim() - 2))


def _unit_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    return (F.normalize(ours.flatten(1), eps=EPSILON) - F.normalize(theirs.flatten(1), eps=EPSILON)).square().sum(1)


# ---- parameter distribution


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


def coefficient_quantiles(coefficients: Tensor, count: int = 32) -> Tensor:
    """(filters, frequencies) -> (count, frequencies): how the coefficients spread over the filters.

    Quantiles at the middles of ``count`` equal steps, in units of the stage's root mean square, so that only the shape
    of the distribution counts.
    """
    steps = (torch.arange(count, dtype=coefficients.dtype, device=coefficients.device) + 0.5) / count
    scale = coefficients.square().mean().sqrt() + EPSILON
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


# ---- collaboration


def learned_noise(losses: Tensor, log_variances: Tensor, bound: float = 4.0) -> Tensor:
    """Each term as the likelihood of an observation with its own noise σ² = exp(s) (arXiv 1705.07115).

        L = Σ_i exp(−s_i) L_i + s_i / 2

    The best s_i for a constant L_i is log(2 L_i): a term weighs 1 / (2 L_i), so that terms count alike whatever their
    size; ``bound`` keeps |s_i| from growing without end where a loss goes to zero.

    Args:
        losses: (terms,), each at least 0.
        log_variances: (terms,) learned s.
    """
    s = log_variances.clamp(-bound, bound)
    return ((-s).exp() * losses + s / 2).sum()


def teacher_confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """(batch,) weights of mean 1: how likely the teacher makes each clip's true label.

    A clip the teacher gets wrong teaches little; the likelihood p(label | clip, teacher) says how far to believe it.
    """
    likelihood = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    return likelihood / likelihood.mean().clamp_min(EPSILON)


def drawn_term(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """(terms,) factors, one 1 / p and the others 0: the mean over draws is 1 for each term, so the expected gradient
    is that of the sum, while at each step one term speaks alone."""
    chosen = int(torch.multinomial(probabilities, 1, generator=generator))
    factors = torch.zeros_like(probabilities)
    factors[chosen] = 1 / (probabilities[chosen] / probabilities.sum())
    return factors
