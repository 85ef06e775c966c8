"""Collaboration: how the terms are weighed against each other, from a probabilistic view."""

from __future__ import annotations

import torch
from torch import Tensor

BOUND = 4.0
"""Of |s|, which would grow without end where a loss goes to zero."""


def learned_noise(losses: Tensor, weights: Tensor, log_variances: Tensor) -> Tensor:
    """Each term as so many observations with its own noise σ² = exp(s), after arXiv 1705.07115.

        L = Σ_i w_i (exp(−s_i) L_i + s_i / 2), returned as its summands

    The best s_i for a constant L_i is log(2 L_i): a term then weighs w_i / (2 L_i), whatever its size. So w_i is how
    much a term is listened to; as a factor on L_i alone it would change nothing, since s_i would undo it.

    Args:
        losses: (terms,), each at least 0.
        weights: (terms,) w.
        log_variances: (terms,) learned s, to be kept within ``BOUND``.
    """
    return weights * ((-log_variances).exp() * losses + log_variances / 2)


def teacher_confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """(batch,) weights of mean 1: how likely the teacher makes each clip's true label.

    logits and labels, which are probabilities, are (batch, labels).

    A clip the teacher gets wrong teaches little; the likelihood p(label | clip, teacher) says how far to believe it.
    """
    # as logarithms: where the teacher is sure and wrong of every clip, likelihoods vanish and their ratios do not
    likelihood = (logits.log_softmax(1) + labels.log()).logsumexp(1)
    return likelihood.softmax(0) * len(likelihood)


def drawn_term(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """(terms,) factors, one 1 / p and the others 0: the mean over draws is 1 for each term, so the expected gradient
    is that of the sum, while at each step one term speaks alone."""
    chosen = int(torch.multinomial(probabilities, 1, generator=generator))
    factors = torch.zeros_like(probabilities)
    factors[chosen] = 1 / (probabilities[chosen] / probabilities.sum())
    return factors
