"""Other ways to distil, in the same frame: what the method is measured against.

A new one is one function here, one entry in ``cpd_train.terms.TERMS``, and its weight in ``cpd.config.Distill``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cpd_train.losses.inputs import as_float, check_alike, least
from cpd_train.losses.spectrum import stage_pairs, unit_distance


def logit_distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Hinton's KD (arXiv 1503.02531): T² KL(softmax(teacher / T) || softmax(student / T)).

    Args:
        student, teacher: logits, (batch, classes).
        temperature: softens both; T² keeps the gradient's size.

    Returns:
        (batch,), at least 0, and 0 where both distributions are the same.

    Raises:
        TrainingError: another number of clips or classes.
    """
    check_alike(student, teacher, ("clips", "classes"))
    log_student = F.log_softmax(as_float(student) / temperature, dim=1)
    log_teacher = F.log_softmax(as_float(teacher) / temperature, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1) * temperature**2


def dist(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """DIST (arXiv 2205.10536): match relations, not values, of the softened predictions, by Pearson correlation.

    Between the classes of each clip, and between the clips of the batch for each class; the second, a property of the
    batch, counts for each clip alike.

    Args:
        student, teacher: logits, (batch, classes).
        temperature: softens both.

    Returns:
        (batch,), 0 to 4 temperature².

    Raises:
        TrainingError: another number of clips or classes.
    """
    check_alike(student, teacher, ("clips", "classes"))
    ours, theirs = ((as_float(logits) / temperature).softmax(1) for logits in (student, teacher))
    between_classes = 1 - _correlation(ours, theirs, least(student))
    between_clips = (1 - _correlation(ours.T, theirs.T, least(student))).mean()
    return (between_classes + between_clips) * temperature**2


def fitnet(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """FitNet (arXiv 1412.6550): mean squared error of features brought to equal channels by an adapter.

    Args:
        student, teacher: for each stage (batch, frames, channels, height, width).

    Returns:
        (batch,), averaged over the stages.
    """
    pairs = stage_pairs(student, teacher)
    return torch.stack(
        [(as_float(ours) - as_float(theirs)).square().flatten(1).mean(1) for ours, theirs in pairs]
    ).mean(0)


def attention_transfer(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Attention transfer (arXiv 1612.03928) over space and time: as ``spectrum_distillation``, without the transform.

    Args and returns: as there, for attention maps (batch, frames, height, width).
    """
    return torch.stack([unit_distance(*pair) for pair in stage_pairs(student, teacher)]).sum(0)


def relational(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD's distance loss (arXiv 1904.05068): clips shall lie as far apart for the student as for the teacher.

    Args:
        student, teacher: one embedding for each clip, (batch, channels), of any widths.

    Returns:
        (batch,): Huber distance of each clip's row of pairwise distances, each matrix scaled to mean 1.

    Raises:
        TrainingError: another number of clips.
    """
    check_alike(student, teacher, ("clips",))
    ours, theirs = _distances(student), _distances(teacher)
    return F.smooth_l1_loss(ours, theirs, reduction="none").mean(1)


def spatial_spectrum(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Spectral matching over space, after SpectralKD (arXiv 2412.19055): 2-D amplitudes of each frame's attention map.

    Of the plane of frequencies the half that ``rfft2`` gives is compared, width // 2 + 1 columns, each counted once:
    one whose mirror image is left out is not weighed by √2 for it, as ``temporal_spectrum`` weighs its bins. So the
    column of no horizontal frequency, and of the highest for an even width, counts twice what it does in the plane.

    Args:
        student, teacher: for each stage maps (batch, frames, height, width).

    Returns:
        (batch,), summed over the stages, each scaled to unit length as ``spectrum_distillation`` does.
    """
    total = []
    for pair in stage_pairs(student, teacher):
        amplitudes = [torch.fft.rfft2(as_float(maps), norm="ortho").abs() for maps in pair]
        total.append(unit_distance(*amplitudes))
    return torch.stack(total).sum(0)


def _correlation(ours: Tensor, theirs: Tensor, shortest: float) -> Tensor:
    """Pearson correlation of corresponding rows, (rows,); 1 where both are constant: ``shortest`` from their mean."""
    ours, theirs = ours - ours.mean(1, True), theirs - theirs.mean(1, True)
    constant = (ours.norm(dim=1) < shortest) & (theirs.norm(dim=1) < shortest)
    return torch.where(constant, 1.0, F.cosine_similarity(ours, theirs, dim=1, eps=shortest))


def _distances(embeddings: Tensor) -> Tensor:
    """(batch, batch) pairwise distances over their mean off the diagonal."""
    embeddings = as_float(embeddings)
    squared = (embeddings[:, None] - embeddings[None]).square().sum(2)
    distances = (squared + 1e-12).sqrt()
    count = len(embeddings) * max(1, len(embeddings) - 1)
    return distances / (distances.sum() / count)
