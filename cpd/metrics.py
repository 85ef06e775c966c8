"""What is measured on clips, and how sure one can be of it. All in numpy, so that every room can use it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
"""(clips, classes) float32."""
PerClip = NDArray[np.bool_]
"""(clips,) whether something holds for each clip."""
Interval = tuple[float, float]

Z_95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""
RESAMPLES = 2000


def top_k_correct(logits: Logits, labels: NDArray[np.int64], k: int = 1) -> PerClip:
    """Whether the true label is among the ``k`` largest logits; equal logits go to the class that comes first.

    Args:
        logits: (clips, classes).
        labels: (clips,) class indices.
        k: more than there are classes is all of them.
    """
    best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return np.asarray((best == labels[:, None]).any(axis=1))


def agreement(one: Logits, other: Logits) -> PerClip:
    """Whether both give each clip the same label."""
    return np.asarray(one.argmax(axis=1) == other.argmax(axis=1))


def kl_divergence(teacher: Logits, student: Logits) -> NDArray[np.float64]:
    """(clips,) Kullback-Leibler divergence of the student's distribution from the teacher's, in nats."""
    teacher_log, student_log = log_softmax(teacher), log_softmax(student)
    return np.asarray((np.exp(teacher_log) * (teacher_log - student_log)).sum(axis=1))


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    """(clips, classes) logarithms of the probabilities."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def wilson_interval(holds: PerClip) -> Interval:
    """95 % interval of the share of clips for which something holds.

    Unlike the normal approximation it is right near 0 and 1 and for few clips (Wilson 1927; Brown, Cai, DasGupta 2001).
    """
    count = len(holds)
    if count == 0:
        return 0.0, 1.0
    share, spread = float(holds.mean()), Z_95**2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(statistic: Callable[[NDArray[np.int64]], float], units: int, seed: int = 0) -> Interval:
    """95 % percentile interval of a statistic over ``units`` drawn with replacement.

    Everything that belongs to a unit is drawn together, so the comparison of two models on the same clips, or of two
    engines in the same rounds, stays paired.

    Args:
        statistic: of (units,) indices of the units drawn; draws for which it is nan do not count.
        units: clips, or rounds of a latency measurement.
        seed: the same gives the same interval.
    """
    generator = np.random.default_rng(seed)
    values = np.asarray([statistic(generator.integers(0, units, units)) for _ in range(RESAMPLES)])
    defined = values[~np.isnan(values)]
    if len(defined) == 0:
        return math.nan, math.nan
    low, high = np.quantile(defined, (0.025, 0.975))
    return float(low), float(high)


def retained_top1(student: PerClip, teacher: PerClip) -> float:
    """The student's top-1 over the teacher's; nan where the teacher is never right."""
    return float(student.mean() / teacher.mean()) if teacher.any() else math.nan


def retained_interval(student: PerClip, teacher: PerClip) -> Interval:
    """95 % interval of ``retained_top1`` over the clips, paired.

    Two clips are added, of which each model alone has one right (as Bonett and Price 2012 do for a difference): few
    clips on which both are right would otherwise leave no width.
    """
    if not teacher.any():
        return math.nan, math.nan
    ours, theirs = np.append(student, [True, False]), np.append(teacher, [False, True])
    return bootstrap_interval(lambda drawn: retained_top1(ours[drawn], theirs[drawn]), len(ours))
