"""Feature spectrum distillation: the student's features shall have the teacher's temporal frequency spectrum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from cpd.errors import TrainingError
from cpd_train.losses.inputs import as_float, check_alike, least

LEAST_BIN = 1e-2
"""Of a clip's length: a weaker bin is not brought to unit length, since it holds little but noise."""


def attention_maps(features: Tensor) -> Tensor:
    """(batch, frames, channels, height, width) -> (batch, frames, height, width): mean of squares over channels.

    Needs nothing learned, and gives student and teacher one shape whatever their widths (arXiv 1612.03928). Maps
    are float, or float64 where the features are.
    """
    maps: Tensor = _MeanSquare.apply(features)  # type: ignore[no-untyped-call]
    return maps


class _MeanSquare(torch.autograd.Function):
    """The mean of squares over dimension 2, whose gradient takes one pass over features in the type they have.

    Autograd's own casts, multiplies and copies them: a fifth of a small student's step.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        kind = torch.promote_types(features.dtype, torch.float32)
        return _squarable(features).square().mean(2, dtype=kind)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (features,) = ctx.saved_tensors
        wide = _squarable(features)
        ours: Tensor = wide * (gradient * (2 / features.shape[2])).to(wide.dtype).unsqueeze(2)
        return ours.to(features.dtype)


def _squarable(features: Tensor) -> Tensor:
    """In float32 where they are float16, in which squares end at 65504, and so does a gradient."""
    return features.float() if features.dtype == torch.float16 else features


def smaller(ours: tuple[int, int], theirs: tuple[int, int]) -> tuple[int, int]:
    """The smaller of two grids, (height, width), in each direction."""
    return min(ours[0], theirs[0]), min(ours[1], theirs[1])


def grid_of(signal: Tensor) -> tuple[int, int]:
    """(height, width) of (..., height, width)."""
    return signal.shape[-2], signal.shape[-1]


def pool_to(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Averages the last two dimensions to (height, width)."""
    if maps.shape[-2:] == torch.Size(size):
        return maps
    flat, (high, wide) = maps.flatten(0, -3), maps.shape[-2:]
    if high % size[0] == 0 and wide % size[1] == 0:  # the same, in two thirds of the time
        pooled = F.avg_pool2d(flat, (high // size[0], wide // size[1]))
    else:
        pooled = F.adaptive_avg_pool2d(flat, size)
    return pooled.reshape(*maps.shape[:-2], *size)


def temporal_spectrum(signal: Tensor, form: str = "amplitude", dc: bool = True, over: str = "time") -> Tensor:
    """The spectrum of each position's course over time; or of a clip's motion over time and space.

    With the orthonormal transform, and every bin but DC (and Nyquist, for an even number of frames) scaled by √2 for
    the mirrored half that ``rfft`` leaves out, the energy of the spectrum is that of the signal (Parseval). A constant
    offset reaches the DC bin alone; a circular shift in time changes phases, so not the amplitudes. Over time and space
    the same holds of a shift of the picture: amplitudes tell what moves and how fast, and not where or when.

    Args:
        signal: (batch, frames, ..., height, width) real; any number of frames.
        form: amplitude |X|; log-amplitude log(1 + |X|), which lifts weak bins; or complex, the real and imaginary
            parts, so that phase counts. An amplitude is √(|X|² + 1e-12) − 1e-6, less than |X| by up to 1e-6, for the
            sake of its gradient at 0.
        dc: whether the zero-frequency bin (of time) is kept.
        over: time, for each position; or space-time, whose last two dimensions become frequencies too.

    Returns:
        (batch, bins, ...) with bins = frames // 2 + 1, one less without DC; complex has a trailing dimension of 2.
    """
    frames = signal.shape[1]
    real = as_float(signal)
    axes = {"time": (1,), "space-time": (-2, -1, 1)}[over]  # the last one is halved
    some = [axis for axis in axes if axis == 1 or signal.shape[axis] > 1]  # one value is its own spectrum
    spectrum = torch.fft.rfftn(real, dim=some, norm="ortho")
    spectrum = spectrum * _mirrored(frames, real.dtype, real.device).view(1, -1, *[1] * (signal.dim() - 2))
    if not dc:
        spectrum = spectrum[:, 1:]
    return _FORMS[form](spectrum)


@lru_cache
def _mirrored(frames: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(bins,): √2 for each bin that has a mirrored half, else 1."""
    factors = torch.full((frames // 2 + 1,), math.sqrt(2), dtype=dtype, device=device)
    factors[0] = 1
    if frames % 2 == 0:
        factors[-1] = 1
    return factors


def _amplitude(spectrum: Tensor) -> Tensor:
    # |z| has no gradient at 0; the offset gives it one and moves the value by at most 1e-6, which results rest on
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
    scale: str = "clip",
    over: str = "time",
    bin_weights: Tensor | None = None,
) -> Tensor:
    """Feature spectrum distillation: the student's features shall have the teacher's temporal frequency spectrum.

    For each stage, both signals are brought to the smaller of their grids, transformed along time, and scaled to unit
    length, so that the loss compares the shape of a spectrum and not its loudness::

        L = Σ_stages ‖ a / ‖a‖ − b / ‖b‖ ‖²,  a, b = spectrum(student), spectrum(teacher)

    which lies in 0..4 a stage (0..2 for amplitudes). Scaled over a whole clip, a bin counts by its energy, and most of
    that is in the zero frequency. Scaled bin by bin, a and b are the places of one bin, and L is the mean of the bins.
    The logarithm of an amplitude does see loudness; an amplitude sees it where it is not far above 1e-6: L changes by
    some percent at most for signals of 1e-3 and more. Attention maps are squares, so of features of 0.03 and more.

    Args:
        student, teacher: for each stage a signal (batch, frames, height, width) or, from an adapter,
            (batch, frames, channels, height, width) of equal channels.
        form, dc, over: see ``temporal_spectrum``.
        scale, bin_weights: see ``spectral_shape``.

    Returns:
        (batch,), 0 for identical signals.

    Raises:
        TrainingError: another number of stages, clips, frames, channels or bin weights, or a negative one of these.
    """
    distances = []
    for pair in stage_pairs(student, teacher):
        ours, theirs = (spectral_shape(signal, form, dc, over, scale, bin_weights) for signal in pair)
        distances.append(squared_distance(ours, theirs))
    return torch.stack(distances).sum(0)


def spectral_shape(
    signal: Tensor,
    form: str = "amplitude",
    dc: bool = True,
    over: str = "time",
    scale: str = "clip",
    bin_weights: Tensor | None = None,
) -> Tensor:
    """The spectrum of each clip as a point, so that the squared distance of two is the loss of a stage.

    Args:
        signal, form, dc, over: see ``temporal_spectrum``.
        scale: clip or bin, what is scaled to unit length; a bin of less than ``LEAST_BIN``, a hundredth, of its clip's
            length is divided by that instead and stays shorter, since it holds little but noise.
        bin_weights: (bins,) from 0, of the frequencies in time, None for ones: factors on the spectra before a clip is
            scaled; or, scaled bin by bin, on the bins' distances before they are averaged.

    Returns:
        (batch, values).

    Raises:
        TrainingError: another number of bin weights than of bins, or a negative one.
    """
    spectrum = temporal_spectrum(signal, form, dc, over)
    if bin_weights is not None:
        if bin_weights.shape != spectrum.shape[1:2]:
            raise TrainingError(f"{bin_weights.numel()} bin weights for {spectrum.shape[1]} bins")
        if not (bin_weights >= 0).all():
            raise TrainingError(f"bin weights must be 0 or more, got {bin_weights.tolist()}")
    return _SCALES[scale](spectrum, bin_weights, least(signal))


def stage_pairs(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """The signals of each stage, (..., height, width), both averaged to the smaller of their grids.

    Raises:
        TrainingError: they differ in more than their grids.
    """
    if len(student) != len(teacher):
        raise TrainingError(f"the student has {len(student)} stages and the teacher {len(teacher)}")
    for ours, theirs in zip(student, teacher, strict=True):
        check_alike(ours, theirs, ("clips", "frames", "channels")[: ours.dim() - 2])
        size = smaller(grid_of(ours), grid_of(theirs))
        yield pool_to(ours, size), pool_to(theirs, size)


def _by_clip(spectrum: Tensor, bin_weights: Tensor | None, shortest: float) -> Tensor:
    if bin_weights is not None:
        spectrum = spectrum * bin_weights.to(spectrum).view(1, -1, *[1] * (spectrum.dim() - 2))
    return F.normalize(spectrum.flatten(1), eps=shortest)


def _by_bin(spectrum: Tensor, bin_weights: Tensor | None, shortest: float) -> Tensor:
    """Each bin of unit length, or shorter where it is nearly empty; and of its share in the mean of the bins."""
    flat = spectrum.flatten(2)
    lengths: Tensor = torch.linalg.vector_norm(flat, dim=2, keepdim=True)
    whole = torch.linalg.vector_norm(lengths, dim=1, keepdim=True)
    unit = flat / lengths.maximum(LEAST_BIN * whole + shortest)
    if bin_weights is not None:
        unit = unit * bin_weights.to(unit).sqrt().view(1, -1, 1)
    return unit.flatten(1) / math.sqrt(flat.shape[1])


_SCALES: dict[str, Callable[[Tensor, Tensor | None, float], Tensor]] = {"clip": _by_clip, "bin": _by_bin}


def unit_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """(batch,): squared distance of both signals, each scaled to unit length per clip."""
    units = (F.normalize(as_float(signal).flatten(1), eps=least(signal)) for signal in (ours, theirs))
    return squared_distance(*units)


def squared_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """(batch, values) twice -> (batch,)."""
    return (ours - theirs).square().sum(1)
